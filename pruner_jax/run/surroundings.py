"""What prune, evaluate and warmup open before all that is their own, the same on all hosts.

Takes the settings of one of these verbs and the processes of the pod; gives problems, mesh,
verifier and progress, and what every model of the verb is sampled with. Hosts that differ are
refused here: in settings, program or machine by `check_hosts`, which comes before all that they
do together; in files or problems by `open_surroundings`; in models by `Surroundings.check_models`.
Leaves out signals and folders, which are the verbs' own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from pruner_jax.config import EvaluateConfig, PruneConfig, WarmupConfig
from pruner_jax.mesh import make_mesh
from pruner_jax.pod.likeness import LIKE, digests_of_model, digests_of_problems, likeness
from pruner_jax.pod.together import Pod
from pruner_jax.policy import hf
from pruner_jax.report.progress import Progress
from pruner_jax.run.checks import named_files
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.heap import give_back_large_blocks
from pruner_jax.store.folder import digests
from pruner_jax.types import Problem
from pruner_jax.verify.pool import Verifier

Settings = PruneConfig | EvaluateConfig | WarmupConfig


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What stays the same while a verb works."""

    settings: Settings
    pod: Pod  # the processes; files and what is shown are the first one's
    progress: Progress
    problems: dict[str, list[Problem]]  # by set
    mesh: jax.sharding.Mesh  # of the devices of all processes
    verifier: Verifier

    @property
    def shared(self) -> dict[str, Any]:
        """What every model is sampled with, as `load_second` takes it."""
        return {
            "sampling": self.settings.sample,
            "verifier": self.verifier,
            "seed": self.settings.seed,
            "mesh": self.mesh,
            "pod": self.pod,
        }

    @property
    def own(self) -> dict[str, Any]:
        """The same for a model that is asked the problems themselves, as `Engine.of` takes it."""
        settings = self.settings
        return {**self.shared, "text_options": settings.text, "problems": settings.problems}

    def check_models(self, models: Mapping[str, str]) -> None:
        """Refuse models that are not the same on all hosts.

        Args:
          models: by their part in the verb, by what to find each.

        Raises:
          Unlike: which files differ, and where.
        """

        def found() -> dict[str, str]:
            folders = {part: hf.find_folder(model) for part, model in models.items()}
            return {
                f"{part}: {file}": digest
                for part, folder in folders.items()
                for file, digest in digests_of_model(folder).items()
            }

        self.pod.agree("the hosts' models", found, "give all the same model")


def check_hosts(settings: Settings, pod: Pod) -> None:
    """Refuse processes that differ in settings, program or machine: before anything else, for other
    programs would not even meet at the same places.

    Raises:
      Unlike: what differs, and where.
    """
    pod.agree("the hosts' settings and programs", lambda: likeness(settings), LIKE)


@contextlib.contextmanager
def open_surroundings(
    settings: Settings, pod: Pod, load: Callable[[], dict[str, list[Problem]]]
) -> Iterator[Surroundings]:
    """The surroundings of a verb, checked against those of the other processes, which have the same
    settings (`check_hosts`).

    ``load`` gives the sets of problems.

    Raises:
      Unlike: the processes have different files or problems.
      ValueError: the problems cannot be loaded, nor the mesh be laid, or a checker is not there.
    """
    keep_compiled_programs()
    give_back_large_blocks()
    with contextlib.ExitStack() as stack:
        shown = None if pod.leads else stack.enter_context(open(os.devnull, "w"))
        progress = stack.enter_context(Progress(shown))
        pod.agree("the hosts' files", lambda: digests(named_files(settings)), "give all the same")
        problems = load()
        pod.agree(
            "the hosts' problems", lambda: digests_of_problems(problems), "give all the same data"
        )
        mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
        verifier = stack.enter_context(Verifier(settings.verify))
        verifier.prepare(problem for part in problems.values() for problem in part)
        yield Surroundings(settings, pod, progress, problems, mesh, verifier)
