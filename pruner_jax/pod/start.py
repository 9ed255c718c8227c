"""How the processes of a run find each other, before JAX looks at any device.

Takes ``PodOptions`` and the environment; gives the `Pod` for as long as the run lasts. On Cloud TPU
pods, GKE, Slurm and Open MPI, JAX finds the others by itself. A run alone starts nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping

import jax
from jax._src.distributed import global_state  # there is no public way to it

from pruner_jax.learn.options import PodOptions
from pruner_jax.pod.together import ALONE, Pod, PodError
from pruner_jax.pod.watch import AGAIN, Gone, Watch, leave

# Seconds more than ours until JAX gives up by itself, which aborts the process without our words.
_GRACE = 60

_CURE = (
    "Every host needs the same command; where the cluster says nothing, pod.coordinator "
    "(address:port of the first host), pod.processes and pod.process (0, 1, ...) must be given, or "
    "pod.start: none to run alone. How long they are waited for: pod.wait"
)

MANY = ("prune", "evaluate", "warmup")  # the verbs that work on many hosts


@contextlib.contextmanager
def start(options: PodOptions) -> Iterator[Pod]:
    """The pod that this process is part of; left when the run is done or has failed.

    Raises:
      PodError: the others were not found (Gone: or are gone again).
    """
    if not wanted(options, os.environ):
        if jax.process_count() > 1:  # as on the hosts of a Cloud TPU slice
            raise PodError(
                f"JAX has found {jax.process_count()} processes, which know nothing of each other "
                "here; set pod.start to pod (or PRUNER_POD=pod) to run on all of them, or take a "
                "machine of its own"
            )
        yield ALONE
        return
    given = {
        "coordinator_address": options.coordinator,
        "num_processes": options.processes,
        "process_id": options.process,
    }
    if "cpu" in (jax.config.jax_platforms or os.environ.get("JAX_PLATFORMS", "")):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Which signal stops a run, and when, is the run's own matter (run.interrupts).
    jax.config.update("jax_enable_preemption_service", False)
    said = ", ".join(f"{name} = {value}" for name, value in given.items() if value is not None)
    missing = f"the other processes of the pod were not found ({said or 'looked for by JAX'}): "
    with _no_longer_than(options.wait, f"{missing}waited for {options.wait} s. {_CURE}"):
        try:
            jax.distributed.initialize(
                **given,
                initialization_timeout=options.wait + _GRACE,
                heartbeat_timeout_seconds=options.patience + _GRACE,
            )
        except (ValueError, RuntimeError) as error:
            said = f"{missing}{str(error).strip().splitlines()[0]}. {_CURE}"
            # Nobody answers, or not any more; else the settings are wrong.
            away = isinstance(error, jax.errors.JaxRuntimeError)
            raise (Gone if away else PodError)(said) from error
        alone = jax.process_count() == 1  # makes the devices of all
    if alone:
        yield ALONE
        return
    with Watch(options.patience) as watch:
        pod = Pod(jax.process_index(), jax.process_count(), watch)
        try:
            yield pod
            pod.gather(None, "the end")  # the first process keeps the line until all are done
        except BaseException as error:
            reason = watch.ended_by(error)
            if reason is error:
                raise
            raise reason from error
    jax.distributed.shutdown()


@contextlib.contextmanager
def _no_longer_than(seconds: int, words: str) -> Iterator[None]:
    """End this process where others are waited for longer, with the code to be started again: JAX
    itself would abort it."""

    def give_up() -> None:
        print(f"error: {words}", file=sys.stderr)
        leave(AGAIN)

    late = threading.Timer(seconds, give_up)
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()


def leads() -> bool:
    """Whether this process is the first of those that were started, also once they are done."""
    return global_state.process_id == 0


def refuse(verb: str, options: PodOptions) -> None:
    """Say that a verb works on one host, where this process is told of others.

    Raises:
      PodError: with the verbs that work on many.
    """
    if wanted(options, os.environ):
        raise PodError(
            f"{verb} works on one host, but pod.start, PRUNER_POD or the cluster speaks of others; "
            f"run it on one of them with PRUNER_POD=none (on many work {', '.join(MANY)})"
        )


def wanted(options: PodOptions, environment: Mapping[str, str]) -> bool:
    """Whether this process is to look for others; PRUNER_POD has the last word."""
    how = environment.get("PRUNER_POD", options.start)
    if how not in ("auto", "pod", "none"):
        raise ValueError(f"PRUNER_POD is {how!r}; allowed: auto, pod, none")
    if how == "auto":
        hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
        several = "," in hosts and " " not in hosts  # libtpu writes a warning there
        # Of a step of Slurm, which srun starts; a job's own number of tasks may mean CPUs.
        tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
        named = "JAX_COORDINATOR_ADDRESS" in environment or options.coordinator is not None
        return several or named or any(int(environment.get(name) or 1) > 1 for name in tasks)
    return how == "pod"
