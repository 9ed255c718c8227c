"""The Verifier: what the rest of the package sees of the worker pool.

``submit`` takes a response at any time and returns at once, so checking overlaps with decoding;
``collect`` waits for the outcomes, in the order in which they are asked for. Equal questions are
asked once. Outcomes depend on the responses alone, not on the number of workers nor on the order
of arrival. Left out: what counts as an answer (`answers`), and rows and rollouts (`grade`).
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify import checkers
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.outcome import Job, Outcome
from pruner_jax.verify.process import Item
from pruner_jax.verify.supervise import Supervisor

_LASTING = (Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED, Verdict.UNSUPPORTED)

Key = tuple[str, str, str]  # checker, gold answer, answer


class Verifier:
    """Checks answers in worker processes. Use it as a context manager, or call ``close``."""

    def __init__(self, options: VerifyOptions | None = None) -> None:
        """Errors: ValueError if the options name a checker that there is not."""
        self.options = options or VerifyOptions()
        self._settings = {
            checkers.plan(name).spec: dict(settings)
            for name, settings in self.options.settings.items()
        }
        if self.options.checker:
            checkers.plan(self.options.checker)
        self._changed = threading.Condition()  # guards what follows
        self._next = self._submitted = self._cached = 0
        self._open: set[int] = set()  # tickets without an outcome
        self._outcomes: dict[int, Outcome] = {}  # finished and not collected
        self._waiting: dict[Key, list[int]] = {}  # tickets of one question; the first is checked
        self._key: dict[int, Key] = {}  # of those first ones
        self._cache: OrderedDict[Key, Outcome] = OrderedDict()
        self._supervisor: Supervisor | None = None
        self._failure: BaseException | None = None
        self._closed = False
        self._shown: set[str] = set()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def plan(self, problem: Problem) -> checkers.Plan:
        """The checker of a problem (or the one that the options put in its place)."""
        return checkers.plan(self.options.checker or problem.checker)

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Load the checkers of these problems in a worker now, so that one that cannot be loaded is
        a ValueError before anything was sampled for it; so is too little time for programs."""
        specs = sorted({self.plan(problem).spec for problem in problems})
        if "program" in specs:
            self.options.check_seconds()
        with self._changed:
            tickets = [self._enqueue(spec, b"") for spec in specs]
        self.collect(tickets)

    def submit(
        self,
        problem: Problem,
        text: str,
        answer: str | None,
        tokens: Sequence[int] | None = None,
    ) -> int:
        """Queue one response; the ticket is what ``collect`` takes. Does not wait.

        ``text``: the whole response. ``tokens``: its ids, for TRL functions.
        """
        plan = self.plan(problem)
        key = None
        if plan.by_answer:  # give the checker nothing else, so that this stays true
            key = (plan.spec, problem.answer, answer or "")
            problem, text = Problem(problem.id, "", problem.answer, problem.checker), ""
        if plan.needs_tokens and tokens is None:
            raise ValueError(f"checker {plan.spec!r} needs the token ids of the response")
        ids = tuple(int(token) for token in tokens) if plan.needs_tokens else None
        try:
            job = pickle.dumps(Job(problem, text, answer, ids))
        except Exception as error:
            raise ValueError(
                f"problem {problem.id!r} cannot be sent to a worker ({error}); its columns must be "
                "picklable"
            ) from error
        with self._changed:
            self._submitted += 1
            if key and (key in self._cache or key in self._waiting):
                return self._known(key)
            ticket = self._enqueue(plan.spec, job)
            if key:
                self._waiting[key], self._key[ticket] = [ticket], key
            return ticket

    def collect(self, tickets: Sequence[int]) -> list[Outcome]:
        """Outcomes of these tickets, in this order; waits for them. Each is given out once."""
        outcomes = []
        with self._changed:
            for ticket in tickets:
                while ticket in self._open:
                    if self._failure is not None:
                        raise self._failure
                    self._changed.wait()
                if ticket not in self._outcomes:
                    raise ValueError(f"ticket {ticket} was never given out or collected before")
                outcomes.append(self._outcomes.pop(ticket))
        return outcomes

    @property
    def stats(self) -> dict[str, int]:
        """Responses ``submitted``; of these ``cached`` (the question was asked before) and
        ``retried`` after a hang or a crash; ``killed``: workers lost that way."""
        pool = self._supervisor
        return {
            "submitted": self._submitted,
            "cached": self._cached,
            "retried": pool.retried if pool else 0,
            "killed": pool.killed if pool else 0,
        }

    def show_first(self, problem: Problem, outcome: Outcome) -> None:
        """Log the first failure of each checker; later ones are only counted."""
        spec = self.plan(problem).spec
        if spec not in self._shown:
            self._shown.add(spec)
            logging.getLogger(__name__).warning(
                "checker %s failed on problem %r: %s (later failures are only counted, under "
                "prune/verdict/*)",
                spec,
                problem.id,
                outcome.detail,
            )

    def close(self) -> None:
        """Stop the workers; what was not collected is lost."""
        with self._changed:
            closed, self._closed = self._closed, True
        if self._supervisor is not None and not closed:
            self._supervisor.close()
            atexit.unregister(self.close)
        self._fail(RuntimeError("this Verifier is closed"))

    # -- with the lock held ------------------------------------------------------------------------

    def _new_ticket(self) -> int:
        if self._closed or self._failure is not None:
            raise self._failure or RuntimeError("this Verifier is closed")
        self._next += 1
        self._open.add(self._next)
        return self._next

    def _enqueue(self, spec: str, job: bytes) -> int:
        ticket = self._new_ticket()
        if self._supervisor is None:
            size = self.options.workers or min(16, max(1, _cores() - 1))
            self._supervisor = Supervisor(
                self.options, self._settings, size, self._finish, self._fail
            )
            atexit.register(self.close)
        self._supervisor.put(Item(ticket, spec, job))
        return ticket

    def _known(self, key: Key) -> int:
        """A ticket for a question that was answered or is being answered."""
        ticket = self._new_ticket()
        self._cached += 1
        if key in self._waiting:
            self._waiting[key].append(ticket)
        else:
            self._cache.move_to_end(key)
            self._outcomes[ticket] = self._cache[key]
            self._open.remove(ticket)
        return ticket

    # -- called by the supervisor ------------------------------------------------------------------

    def _finish(self, ticket: int, outcome: Outcome) -> None:
        with self._changed:
            key = self._key.pop(ticket, None)
            tickets = [ticket] if key is None else self._waiting.pop(key)
            if key is not None and outcome.verdict in _LASTING and self.options.cache:
                self._cache[key] = outcome
                if len(self._cache) > self.options.cache:
                    self._cache.popitem(last=False)
            for each in tickets:
                self._open.remove(each)
                self._outcomes[each] = outcome
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
