"""A plan in words: what stands on stderr while it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruner_jax.pod.compiled import Compiled
from pruner_jax.report.words import brief
from pruner_jax.run import traffic
from pruner_jax.run.estimate import PARTS, seconds
from pruner_jax.run.finding import Slice
from pruner_jax.run.found import Finding
from pruner_jax.run.memory import said_size


def described(found: Mapping[str, Any]) -> Iterator[str]:
    """What the plan is of, a line for each thing."""
    device = found["device"]
    for name, value in found.items():
        if name == "device":
            value = (
                f"{device['memory_bytes'] / (1 << 30):.2f} GiB for a program, "
                f"{device['bandwidth'] / 1e9:,.0f} GB/s of memory, "
                f"{device['flops'] / 1e12:,.0f} TFLOP/s in bfloat16, "
                f"{device['links'] / 1e9:,.0f} GB/s of links both ways ({device['source']})"
            )
        elif name == "devices":
            value = ", ".join(f"{axis} {size}" for axis, size in value.items())
        elif name == "not_planned":
            value = "; ".join(value) or "nothing"
        yield f"{name.replace('_', ' ')}: {value}"


def told(title: str, finding: Finding, here: Slice, before: Mapping[str, Finding] = {}) -> str:
    """What was found out about a part of the run, in lines; of the programs of one ``before`` only
    its name."""
    memory, counted = here.chip.memory, finding.counted
    alike = next((name for name, other in before.items() if finding.like(other)), None)
    if alike:
        lines = [f"{title}: as {alike}"]
        lines += [f"held {said_size(counted['held'])}"] if "held" in counted else []
    else:
        sizes = ", ".join(f"{n.replace('_', ' ')} {value}" for n, value in finding.sizes.items())
        held = ", ".join(f"{name} {said_size(size)}" for name, size in counted.items() if size)
        lines = [f"{title}: {sizes}", f"counted on a device: {held}"]
        lines += [_compiled(name, one) for name, one in finding.compiled.items()]
        what = "an update" if "updates" in finding.sizes else "a decode step"
        lines += [
            f"{what} computes {finding.flops:.3g} FLOPs on a device (all rounds of "
            "its loops, nothing twice)"
        ]
        lines += traffic.said(finding.traffic, here.chip.links / 2)
    if finding.bytes is not None:
        least = "" if finding.compiled else "at least "
        verdict = "fits" if finding.fits(memory) else "does not fit"
        lines.append(f"{least}{said_size(finding.bytes)} of {said_size(memory)}: {verdict}")
    return "\n  ".join(lines)


def _compiled(name: str, one: Compiled) -> str:
    name = name.replace("_", " ")
    if one.refusal:
        return f"{name} does not fit: {one.refusal}"
    return (
        f"{name}: arguments {said_size(one.arguments)}, results {said_size(one.results)}, "
        f"temporaries {said_size(one.temporaries)}, code {said_size(one.code)}; "
        f"{one.flops or 0:.3g} FLOPs by XLA, which counts what stands in a loop once; "
        f"compiled in {brief(one.seconds)}"
    )


def estimated(found: Mapping[str, Any]) -> Iterator[str]:
    """Times, and what they assume."""
    yield (
        f"estimate: sample {found['writes']}: {found['decode_tokens_per_second']:,.0f} tokens/s on "
        f"the slice, {brief(found['decode_step_seconds'])} for a token of every row"
    )
    for name, one in found["collections"].items():
        if one["rows"] is None:
            yield (
                f"estimate: {name}: number of problems not known (say problems.train_limit), and "
                "with it no times"
            )
            continue
        kept = f", at most {one['kept']} kept" if one["kept"] not in (0, one["rows"]) else ""
        links = one["link_seconds"]
        beside = f"; beside it {brief(links)} over the links" if links else ""
        yield f"estimate: {one['rows']} rows of {name}{kept}: {_times([one]) or 'no time'}{beside}"
    yield f"assumed: {found['assumed']}"


def closing(found: Mapping[str, Any], findings: Mapping[str, Finding], memory: int) -> str:
    """One line: whether it fits, what is tightest, and how long a step takes."""
    refused = [name for name, finding in findings.items() if finding.bytes is None]
    if refused:
        return f"does not fit: the compiler refuses {', '.join(refused)}"
    tightest = max(findings, key=lambda name: findings[name].bytes)
    most = findings[tightest].bytes
    if most > memory:
        return (
            f"does not fit: {tightest} takes {said_size(most)}, {said_size(most - memory)} more "
            "than there are"
        )
    counted = all(finding.compiled for finding in findings.values())
    known = "fits" if counted else "fits as far as it is counted"
    return f"{known}: {tightest} is tightest, {said_size(memory - most)} are left; {_step(found)}"


def _step(found: Mapping[str, Any]) -> str:
    collections = found["estimate"]["collections"]
    by_step = [one for one in collections.values() if one["every"] == "step"]
    said = [f"a step takes {_all(by_step)}"] if by_step else []
    for name, one in collections.items():
        if one["every"] != "step":
            when = "once" if one["every"] == "once" else f"every {one['every']}"
            said.append(f"{name} ({when}) takes {_all([one])}")
    return ", ".join(said)


def _all(collections: Sequence[Mapping[str, Any]]) -> str:
    total = seconds(collections)
    if total is None:
        return "as long as the number of problems makes it"
    parts = _times(collections, " + ")
    if " + " not in parts:
        parts = parts.removeprefix(brief(total) + " ")
    return f"{brief(total)} ({parts})" if total else "no time"


def _times(collections: Sequence[Mapping[str, Any]], between: str = ", ") -> str:
    """Times by what is done; of what may be drawn several times, those of one draw."""
    parts = []
    for part, verb in PARTS.items():
        draws = max(one["draws"] for one in collections)
        taken = sum(one[part] for one in collections)
        more = f" one draw of up to {draws}" if verb == "write" and draws > 1 else ""
        parts += [f"{brief(taken)} to {verb}{more}"] if taken else []
    return between.join(parts)
