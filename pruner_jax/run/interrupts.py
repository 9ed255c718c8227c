"""A request to stop, by a scheduler (SIGTERM), a person (Ctrl-C), a terminal that went away, or a
notice that the machine will be taken (`pod.notice`), which counts as SIGTERM.

The signal is only noted; ``check``, called between blocks of decoding and after every step (between
the updates of one that learns from files: `learning.heeds_signals`), raises ``Interrupted``, upon
which the run saves its last step and ends. One that comes after the last check is passed on when
the run is done. A second signal ends it without saving: the same command then goes on from the last
saved state.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from pruner_jax.pod.notice import Notices
from pruner_jax.pod.together import ALONE, Pod
from pruner_jax.pod.watch import Interrupted

__all__ = ["Interrupted", "Interrupts"]

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupts:
    """Notes the signals while it is entered, but for one that is ignored, as Ctrl-C is by what a
    shell started in the background. Outside the main thread it does nothing: Python delivers
    signals there only.

    Args:
      pod: the processes that stop together.
      kept: whether the same command will find what was done. Else it is said that nothing is kept,
        and a signal after the last check is dropped once all is done.
    """

    def __init__(self, pod: Pod = ALONE, kept: bool = True) -> None:
        self._pod, self._kept = pod, kept
        self._noted: signal.Signals | None = None
        self._notices = Notices()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            deaf = (signal.SIG_IGN, None)  # None: somebody else's, not made in Python
            heard = [n for n in _SIGNALS if signal.getsignal(n) not in deaf]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        self._notices.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        self._notices.__exit__(kind, error, *_)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if kind is None and self._kept:
            self.check_together()
        if isinstance(error, Interrupted):
            error.kept = self._kept

    def _note(self, number: int, frame: object) -> None:
        if self._noted is not None:
            then = "continues" if self._kept else "begins again"
            stop = KeyboardInterrupt(f"stopped without saving; the same command {then}")
            stop.exit_code = Interrupted(number).exit_code
            raise stop
        self._noted = signal.Signals(number)
        self._pod.note_stop(number)
        # Not through the progress bar: it may be in the middle of a line.
        how = "saving what is done, then stopping (again: stop unsaved)"
        words = f"\n{self._noted.name}: {how if self._kept else 'stopping (again: at once)'}\n"
        with contextlib.suppress(OSError):  # the reader of a pipe got the same signal and is gone
            os.write(2, words.encode())

    def check(self, *_: object) -> None:
        """Raise Interrupted if a signal came, here or to another process of the pod. For work that
        each process does by itself (`Pod.each`)."""
        if self._noted is None and self._notices.came is not None:
            self._noted = signal.SIGTERM
            how = "saving what is done, then stopping" if self._kept else "stopping"
            sys.stderr.write(f"\n{self._notices.came}: {how}\n")
        if self._noted is not None:
            self._pod.ask_to_stop(self._noted)
            raise Interrupted(self._noted)
        if self._pod.stop is not None:
            raise Interrupted(self._pod.stop)

    def check_together(self, *_: object) -> None:
        """The same where all processes come: they raise at the same place, or none does."""
        self._pod.each(self.check)
