"""A trace of some steps of a run: what ran when on host and devices, ``prune --profile``.

The steps are counted from this start, so that those that compile can be left out. The phases of the
clock stand in the trace by their names, beside the programs and their operations. Of several hosts
the first one traces itself and its own devices.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax


def check_tracer() -> None:
    """That JAX can write a trace in this process.

    libtpu is loaded by JAX wherever it is installed, as for `plan`; without a TPU its own tracer
    ends the process with a segmentation fault (jax 0.10.2, libtpu 0.0.52).

    Raises:
      ValueError: it cannot.
    """
    kind, asked = jax.default_backend(), jax.config.jax_platforms or "tpu"
    if kind != "tpu" and "tpu" in asked and importlib.util.find_spec("libtpu"):
        platforms = "cuda,cpu" if kind == "gpu" else kind
        raise ValueError(
            "profile is true, but the package libtpu is installed and there is no TPU: JAX's "
            f"profiler cannot run beside it; set JAX_PLATFORMS={platforms} in the environment"
        )


class Profile:
    """Begins and ends the trace around its steps; without steps it only counts."""

    def __init__(self, steps: list[int], folder: pathlib.Path, log: Callable[[str], None]) -> None:
        self._first, self._last = (min(steps), max(steps)) if steps else (0, 0)
        self._folder, self._log = folder, log
        self._made, self._running = 0, False

    @contextlib.contextmanager
    def step(self, number: int, results: Callable[[], Any]) -> Iterator[None]:
        """The step of that number of the run; ``results`` gives the arrays that it ends with."""
        self._made += 1
        if self._made == self._first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call would hide the rest, and slow it
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield
        if self._running and self._made == self._last:
            jax.block_until_ready(results())
            self._end()
            self._log(
                f"profile of step {self._first} to {self._last} of this start: {self._folder} "
                "(open the .trace.json.gz in https://ui.perfetto.dev, or the folder in "
                "TensorBoard's profile plugin or xprof)"
            )

    def close(self) -> None:
        """End a trace whose last step did not come, and say where there is none."""
        if self._running:
            self._end()
            self._log(f"profile: it ends after step {self._made} of this start: {self._folder}")
        elif self._made < self._first:
            self._log(
                f"profile: nothing was traced, for this start made {self._made} steps; set "
                "profile_steps to others, or begin a new run"
            )

    def _end(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
