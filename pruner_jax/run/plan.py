"""``pruner-jax plan``: a run's programs compiled for a TPU slice that nobody needs to have.

Says what lies on each device, as counted and as compiled (`finding`), what passes between chips,
what fits, and how fast it could be (`estimate`), in JSON and in words (`telling`). Of the model
only ``config.json`` is wanted. `fitting` searches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from pruner_jax.config import PlanConfig
from pruner_jax.pod import chips
from pruner_jax.report.progress import Progress
from pruner_jax.run import fitting, telling
from pruner_jax.run.estimate import estimate
from pruner_jax.run.finding import Slice, learning, limit_of, prepare, sampling
from pruner_jax.run.found import Finding


def plan_verb(settings: PlanConfig) -> dict[str, Any]:
    """The verb ``plan``; with ``dry_run`` nothing is compiled, only counted."""
    with Progress() as progress:
        return plan(settings, progress)


def plan(settings: PlanConfig, progress: Progress) -> dict[str, Any]:
    """What the slice would hold and do.

    Raises:
      ValueError: the slice, the mesh or a setting is not possible, or the model has no description.
    """
    here = prepare(settings)
    found: dict[str, Any] = _describe(here)
    for line in telling.described(found):
        progress.log(line)
    memory = here.chip.memory
    learners, samplers = {}, {}
    for phase in here.training:
        name = f"learn {phase.name}"
        learners[phase.name] = _find(name, lambda p=phase: learning(here, p), here, progress)
        progress.log(telling.told(name, learners[phase.name], here))
    for name in here.writings:
        finding = _find(f"sample {name}", lambda n=name: sampling(here, n), here, progress)
        progress.log(telling.told(f"sample {name}", finding, here, samplers))
        samplers[name] = finding
    findings = {f"learn {name}": f for name, f in learners.items()}
    findings |= {f"sample {name}": f for name, f in samplers.items()}
    found |= {
        "learner": {name: finding.plain(memory) for name, finding in learners.items()},
        "sampler": {name: finding.plain(memory) for name, finding in samplers.items()},
        "fits": all(finding.fits(memory) for finding in findings.values()),
        "estimate": estimate(here, learners, samplers),
    }
    for line in telling.estimated(found["estimate"]) if found["fits"] else ():
        progress.log(line)
    progress.log(telling.closing(found, findings, memory))
    if settings.search and not settings.dry_run:
        found["search"] = fitting.search(
            settings, list(learners.values()), list(samplers.values()), progress
        )
    return found


def _find(name: str, find: Callable[[], Finding], here: Slice, progress: Progress) -> Finding:
    """Find out, and say meanwhile what is being compiled."""
    if not here.settings.dry_run:
        progress.log(f"compiling {name} ...")
    return find()


def _describe(here: Slice) -> dict[str, Any]:
    chip = here.chip
    parameters = sum(x.size for x in jax.tree.leaves(here.state.params))
    return {
        "topology": here.settings.topology,
        "chips": chips.size(here.settings.topology),
        "devices": dict(here.mesh.shape),
        "device": {
            "memory_bytes": chip.memory,
            "bandwidth": chip.bandwidth,
            "flops": chip.flops,
            "links": chip.links,
            "source": chip.source,
        },
        "model": here.config.model_type,
        "parameters": parameters,
        "layers": here.config.layers,
        "limit": limit_of(here.settings, "train"),
        "prompt_tokens": here.settings.prompt_tokens,
        "not_planned": here.not_planned(),
    }
