"""``pruner-jax plan``: a run's programs compiled for a TPU slice that nobody needs to have.

Says what lies on each device, as counted and as compiled (`finding`), what passes between chips,
what fits, and how fast it could be. Of the model only ``config.json`` is wanted. `fitting`
searches.
"""

from __future__ import annotations

from typing import Any

import jax

from pruner_jax.config import PlanConfig
from pruner_jax.learn.step import row_shards
from pruner_jax.objective.method import Phase
from pruner_jax.pod import chips, roofline
from pruner_jax.pod.compiled import Compiled
from pruner_jax.report.progress import Progress
from pruner_jax.report.words import duration
from pruner_jax.run import fitting, traffic
from pruner_jax.run.finding import (
    SETS,
    Finding,
    Slice,
    learning,
    limit_of,
    prepare,
    rows_of,
    sampling,
)
from pruner_jax.run.memory import said_size


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
    for name, value in found.items():
        progress.log(f"{name}: {value}")
    memory = here.chip.memory
    learners = {phase.name: learning(here, phase) for phase in here.training}
    for name, finding in learners.items():
        progress.log(_said(f"learn {name}", finding, memory))
    samplers = {name: sampling(here, name) for name in SETS}
    for name, finding in samplers.items():
        progress.log(_said(f"sample {name}", finding, memory))
    found |= {
        "learner": {name: finding.plain(memory) for name, finding in learners.items()},
        "sampler": {name: finding.plain(memory) for name, finding in samplers.items()},
        "fits": all(f.fits(memory) for f in (*learners.values(), *samplers.values())),
        "estimate": _estimate(here, learners, samplers["train"]),
    }
    _say_estimate(found["estimate"], progress)
    if settings.search and not settings.dry_run:
        found["search"] = fitting.search(
            settings, list(learners.values()), list(samplers.values()), progress
        )
    return found


# -- what is said ----------------------------------------------------------------------------------


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
    }


def _said(title: str, finding: Finding, memory: int) -> str:
    """What was found out about a part of the run, in lines."""
    sizes = ", ".join(f"{name} {value}" for name, value in finding.sizes.items())
    counted = [f"{name} {said_size(size)}" for name, size in finding.counted.items() if size]
    lines = [f"{title}: {sizes}", f"counted on a device: {', '.join(counted)}"]
    lines.extend(_compiled(name, one) for name, one in finding.compiled.items())
    lines.extend(traffic.said(finding.traffic))
    if finding.bytes is not None:
        least = "" if finding.compiled else "at least "
        verdict = "fits" if finding.fits(memory) else "does not fit"
        lines.append(f"{least}{said_size(finding.bytes)} of {said_size(memory)}: {verdict}")
    return "\n  ".join(lines)


def _compiled(name: str, one: Compiled) -> str:
    if one.refusal:
        return f"{name} does not fit: {one.refusal}"
    return (
        f"{name}: arguments {said_size(one.arguments)}, results {said_size(one.results)}, "
        f"temporaries {said_size(one.temporaries)}, code {said_size(one.code)}; "
        f"{one.flops or 0:.3g} FLOPs, what stands in a loop counted once; "
        f"compiled in {duration(one.seconds)}"
    )


def _say_estimate(found: dict[str, Any], progress: Progress) -> None:
    progress.log(
        f"estimate: {found['decode_tokens_per_second']:,.0f} tokens/s on the slice, "
        f"{found['decode_step_seconds']:.2g} s for a token of every row"
    )
    for name, one in found["collections"].items():
        progress.log(
            f"estimate: {one['rows']} rows of {name}: {duration(one['write_seconds'])} to write, "
            f"{duration(one['learn_seconds'])} to learn from (links: "
            f"{duration(one['link_seconds'])} of it, beside)"
        )
    progress.log(f"assumed: {found['assumed']}")


def _estimate(here: Slice, learners: dict[str, Finding], sampler: Finding) -> dict[str, Any]:
    """Times by the roofline: of a decode step, and of each learning phase's collection."""
    settings = here.settings
    tokens = settings.mean_tokens or limit_of(settings, "train")
    step = _decode_seconds(here, sampler)
    speed = sampler.sizes["rows"] * row_shards(here.mesh) / step
    shares = {name: getattr(settings, name) for name in roofline.SHARES}
    return {
        "decode_step_seconds": step,
        "decode_tokens_per_second": speed,
        "collections": {
            phase.name: _collection(here, phase, learners[phase.name], tokens, speed)
            for phase in here.training
        },
        "assumed": roofline.ASSUMED.format(**shares, tokens=tokens, prompt=settings.prompt_tokens),
    }


def _decode_seconds(here: Slice, sampler: Finding) -> float:
    """Of a step: what it reads, or what it computes."""
    chip, settings = here.chip, here.settings
    read = sampler.counted["weights"] + sampler.counted["cache"]
    flops = roofline.decode_flops(here.config, sampler.sizes["rows"], sampler.sizes["slots"])
    return max(
        read / (chip.bandwidth * settings.read_bandwidth),
        flops / (chip.flops * settings.decode_flops),
    )


def _collection(
    here: Slice, phase: Phase, learner: Finding, tokens: int, speed: float
) -> dict[str, float]:
    """Of a collection of a phase: to write its rows, and to learn from them."""
    settings, config = here.settings, here.config
    rows, flops = rows_of(here, phase), here.mesh.size * here.chip.flops * settings.learn_flops
    prompts = rows / phase.collect.samples
    prefill = prompts * roofline.prefill_flops(config, settings.prompt_tokens) / flops
    row = roofline.learn_flops(config, settings.prompt_tokens, tokens)
    parameters = sum(x.size for x in jax.tree.leaves(here.state.params))
    passes = learner.sizes["micro_batches"] * learner.sizes["updates"]
    links = passes * roofline.gather_seconds(here.chip, parameters, here.mesh.shape["fsdp"])
    return {
        "rows": rows,
        "write_seconds": prefill + rows * tokens / speed,
        "learn_seconds": max(rows * phase.loss.epochs * row / flops, links),
        "link_seconds": links,
    }
