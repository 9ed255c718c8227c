"""How long a plan's run would take, by the roofline: a decode step, what a phase collects, a step.

Takes what `finding` found out. No measurement: what is assumed stands in `roofline.ASSUMED`, and
what is not known before (how many problems there are, what verdicts leave over) is said so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from pruner_jax.learn.step import row_shards
from pruner_jax.objective.method import Phase, most_kept
from pruner_jax.pod import roofline
from pruner_jax.run.ahead import own_sampling
from pruner_jax.run.finding import Slice, limit_of
from pruner_jax.run.found import Finding

PARTS = {"write_seconds": "write", "learn_seconds": "learn", "score_seconds": "score"}
"""The times of a collection, and what is done in each."""


def estimate(
    here: Slice, learners: Mapping[str, Finding], samplers: Mapping[str, Finding]
) -> dict[str, Any]:
    """Of a decode step (of the first model that writes), of every phase's collection, and of what
    comes at every step of the run, null where a part of that is not known or nothing does."""
    settings, first = here.settings, next(iter(here.writings))
    tokens = settings.mean_tokens or limit_of(settings, "train")
    collections = {
        phase.name: collection(here, phase, learners.get(phase.name), samplers, tokens)
        for phase in here.method.phases
    }
    by_step = [one for one in collections.values() if one["every"] == "step"]
    shares = {name: getattr(settings, name) for name in roofline.SHARES}
    return {
        "writes": first,
        "decode_step_seconds": decode_seconds(here, samplers[first]),
        "decode_tokens_per_second": tokens_per_second(here, samplers[first]),
        "collections": collections,
        "step_seconds": seconds(by_step) if by_step else None,
        "assumed": roofline.ASSUMED.format(**shares, tokens=tokens, prompt=settings.prompt_tokens),
    }


def seconds(collections: Sequence[Mapping[str, Any]]) -> float | None:
    """All that collections take together, one draw of their rows each; None where the number of
    problems of one is not known."""
    if any(one["rows"] is None for one in collections):
        return None
    return sum(one[part] for one in collections for part in PARTS)


def decode_seconds(here: Slice, sampler: Finding) -> float:
    """Of a step: what it reads, or what it computes; and what chips that share a model pass."""
    chip, settings = here.chip, here.settings
    passed = sampler.traffic.get("collective_bytes")
    return max(
        sampler.read / (chip.bandwidth * settings.read_bandwidth),
        sampler.flops / (chip.flops * settings.decode_flops),
    ) + (passed / (chip.links / 2) if isinstance(passed, int) else 0)


def tokens_per_second(here: Slice, sampler: Finding) -> float:
    """That a whole slice writes, every seat taken."""
    return sampler.sizes["rows"] * row_shards(here.mesh) / decode_seconds(here, sampler)


def collection(
    here: Slice,
    phase: Phase,
    learner: Finding | None,
    samplers: Mapping[str, Finding],
    tokens: int,
) -> dict[str, Any]:
    """Of a collection of a phase: to write its rows in one draw, to score those that are kept, and
    to learn from them, in as many passes as the method makes. ``rows`` is None, and with it the
    times, where nobody knows how many problems there are."""
    problems, settings = here.problems(phase), here.settings
    found = {"draws": 1 + phase.collect.extra_draws, "every": phase.collect.every}
    times = (*PARTS, "link_seconds")
    if problems is None:
        return found | dict.fromkeys(("rows", "kept", *times))
    rows = problems * phase.collect.samples
    rate = here.mesh.size * here.chip.flops * settings.learn_flops
    found |= {"rows": rows, "kept": 0, **dict.fromkeys(times, 0.0)}
    if name := _writer(here, phase):
        config = here.config_of(here.writings[name])
        prefill = problems * roofline.prefill_flops(config, settings.prompt_tokens) / rate
        # A row takes a step for each token, however few others there are.
        step, speed = decode_seconds(here, samplers[name]), tokens_per_second(here, samplers[name])
        found["write_seconds"] = prefill + tokens * max(step, rows / speed)
    if learner is None:
        return found
    kept = problems * most_kept(phase)
    row = roofline.learn_flops(here.config, settings.prompt_tokens, tokens)
    links = learner.sizes["updates"] * _link_seconds(here, phase, learner)
    return found | {
        "kept": kept,
        "learn_seconds": max(kept * phase.loss.epochs * row / rate, links),
        "score_seconds": scorings(here, phase) * kept * row / 3 / rate,  # forward only
        "link_seconds": links,
    }


def _writer(here: Slice, phase: Phase) -> str | None:
    """Under which name a phase's rows are written; None: they come from a file."""
    taught, own = phase.collect.policy == "teacher", own_sampling(phase)
    alike = (n for n, w in here.writings.items() if (w.teacher, w.sampling) == (taught, own))
    return next(alike, None)


def scorings(here: Slice, phase: Phase) -> int:
    """Forward passes over the rows before they are learnt: under the reference, and under the
    policy that wrote them where the log-probabilities of the sampler will not do."""
    given, options = phase.collect.temperature, here.settings.sample
    sampled = options.temperature if given is None else given
    unlike = phase.loss.temperature_of(sampled) != sampled or phase.condition.examples > 0
    return phase.loss.needs_reference + (phase.loss.kind == "pg" and unlike)


def _link_seconds(here: Slice, phase: Phase, learner: Finding) -> float:
    """Of an update: what its program passes, or as long as that is not known, the least."""
    passed = learner.traffic.get("collective_bytes")
    if isinstance(passed, int):
        return passed / (here.chip.links / 2)
    return roofline.update_seconds(
        here.chip,
        sum(x.size for x in jax.tree.leaves(here.state.params)),
        here.mesh.shape,
        learner.sizes["micro_batches"],
        together=phase.loss.kind == "pairs",
    )
