"""The thread that owns the workers: hands out items, watches the clock, settles blame.

Takes items by ``put`` and gives each exactly one Outcome through the ``finish`` callback. An item
that hangs, or takes its worker down, is tried once more alone in a fresh worker and then gets
TIMEOUT or ERROR; the others of its batch go back to the head of the queue. What makes checking as a
whole impossible (a checker that cannot be loaded, workers that do not start) ends the thread and
goes to ``fail``.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pruner_jax.types import Verdict
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.outcome import Outcome
from pruner_jax.verify.process import STARTUP_S, Item, Phase, Worker

_BATCH = 16  # items per message to a worker


class Supervisor:
    """A pool of at most ``size`` workers, started as they are needed."""

    def __init__(
        self,
        options: VerifyOptions,
        settings: Mapping[str, Mapping[str, Any]],
        size: int,
        finish: Callable[[int, Outcome], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.retried = self.killed = 0
        self._options, self._settings, self._size = options, settings, size
        self._finish, self._fail = finish, fail
        self._lock = threading.Lock()  # guards the queue and the bell
        self._queue: deque[Item] = deque()
        self._bell, self._ear = multiprocessing.Pipe()
        self._rung = self._closing = False
        # The rest is the thread's own.
        self._workers: list[Worker] = []
        self._again: deque[Item] = deque()  # to be tried once more
        self._tried: set[int] = set()  # their tickets, until they are finished
        self._false_starts = 0
        self._failed_loads: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue an item."""
        with self._lock:
            self._queue.append(item)
            self._ring()

    def close(self) -> None:
        """Stop all workers and wait for the thread; what is queued is dropped."""
        with self._lock:
            self._closing = True
            self._ring()
        self._thread.join()
        self._bell.close()
        self._ear.close()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.send_bytes(b"!")

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._dispatch()
                self._listen()
        except BaseException as error:
            self._fail(error)
        finally:
            for worker in self._workers:
                worker.connection.close()  # all at once: the idle ones end by themselves
            for worker in self._workers:
                worker.stop(at_once=worker.phase is not Phase.IDLE)

    def _dispatch(self) -> None:
        """Give every idle worker a batch, and start the workers that are missing.

        What is tried again goes first, and to fresh workers only.
        """
        fresh = [worker for worker in self._idle() if not worker.used]
        while self._again and fresh:
            self._give(fresh.pop(), [self._again.popleft()])
        idle = self._idle()
        while idle and (batch := self._next_batch()):
            self._give(idle.pop(0), batch)
        if self._again and idle and len(self._workers) == self._size:
            worker = idle.pop()  # nothing to do: its place is needed for a fresh one
            self._workers.remove(worker)
            worker.stop(at_once=False)
        starting = sum(worker.phase is Phase.STARTING for worker in self._workers)
        while starting < len(self._queue) + len(self._again) and len(self._workers) < self._size:
            options = self._options
            worker = Worker(options.memory_mb, self._settings, options.correct_from)
            self._workers.append(worker)
            starting += 1

    def _idle(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.phase is Phase.IDLE]

    def _next_batch(self) -> list[Item]:
        """The next few items of one checker; few, so that all workers finish together."""
        with self._lock:
            size = min(_BATCH, math.ceil(len(self._queue) / (2 * self._size)))
            batch: list[Item] = []
            while len(batch) < size and (not batch or self._queue[0].spec == batch[0].spec):
                batch.append(self._queue.popleft())
            return batch

    def _give(self, worker: Worker, batch: list[Item]) -> None:
        try:
            worker.give(batch)
        except OSError:  # it died while idle
            self._lose(worker, Verdict.ERROR)

    def _listen(self) -> None:
        """Wait for a message, a death, a deadline or the bell, and act on what has come."""
        timeout_s = self._options.timeout_s
        deadlines = [worker.deadline(timeout_s) for worker in self._workers]
        left = min(deadlines, default=math.inf) - time.monotonic()
        by_connection = {worker.connection: worker for worker in self._workers}
        heard = multiprocessing.connection.wait(
            [self._ear, *by_connection], None if left == math.inf else max(0.0, left)
        )
        for source in heard:
            if source is self._ear:
                with self._lock:
                    self._ear.recv_bytes()
                    self._rung = False
            else:
                self._hear(by_connection[source])
        now = time.monotonic()
        for worker in list(self._workers):  # what has been said meanwhile counts as in time
            if now > worker.deadline(timeout_s) and not worker.connection.poll():
                self._lose(worker, Verdict.TIMEOUT)

    def _hear(self, worker: Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker, Verdict.ERROR)
            return
        if message is None:
            worker.begin(None)
        elif isinstance(message, str):
            raise ValueError(f"checker {worker.spec!r} cannot be loaded: {message}")
        else:
            ended, begun = message
            self._false_starts = 0
            if ended is not None:
                worker.batch.popleft()
                self._settle(*ended)
            worker.begin(begun)

    def _settle(self, ticket: int, outcome: Outcome) -> None:
        self._tried.discard(ticket)
        self._finish(ticket, outcome)

    def _lose(self, worker: Worker, verdict: Verdict) -> None:
        """A worker died (ERROR) or is too late (TIMEOUT): end it and decide whose fault it was."""
        self._workers.remove(worker)
        how = worker.stop(at_once=verdict is Verdict.TIMEOUT)
        if verdict is Verdict.TIMEOUT:
            limit = self._options.timeout_s if worker.phase is Phase.CHECKING else STARTUP_S
            how = f"took more than {limit:g} s {worker.phase.value}"
        self.killed += 1
        if worker.phase is Phase.CHECKING:
            self._blame(worker.batch.popleft(), verdict, how)
        elif worker.phase is Phase.LOADING:
            times = self._failed_loads[worker.spec] = self._failed_loads.get(worker.spec, 0) + 1
            if times > 1:
                raise ValueError(f"checker {worker.spec!r} cannot be loaded: its worker {how}")
        elif not worker.used:
            self._false_starts += 1
            if self._false_starts > 2:
                raise RuntimeError(f"verification workers do not start: the last one {how}")
        with self._lock:
            self._queue.extendleft(reversed(worker.batch))

    def _blame(self, item: Item, verdict: Verdict, how: str) -> None:
        if item.ticket in self._tried:
            self._settle(item.ticket, Outcome(verdict, 0.0, f"its worker {how}, twice"))
        else:
            self.retried += 1
            self._tried.add(item.ticket)
            self._again.append(item)
