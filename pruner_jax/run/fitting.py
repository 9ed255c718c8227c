"""The search of a plan: the largest micro-batch and the most rows that fit a slice, and the
smallest slice that fits.

Every answer was compiled. Memory grows almost along a line, so the line through what is known says
where to look next, and few compilations do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pruner_jax.config import PlanConfig
from pruner_jax.pod import chips
from pruner_jax.report.progress import Progress
from pruner_jax.run.finding import SETS, Finding, learning, prepare, sampling
from pruner_jax.run.memory import said_size
from pruner_jax.sample.layout import FEWEST

TRIES = 6  # compilations for one answer


@dataclasses.dataclass(frozen=True)
class Answer:
    """The most that was seen to fit, and the least that was seen not to (None: nothing more is
    wanted)."""

    fits: int
    too_many: int | None


def search(
    settings: PlanConfig,
    learners: Sequence[Finding],
    samplers: Sequence[Finding],
    progress: Progress,
) -> dict[str, Any]:
    """What of ``learn.micro_tokens`` and ``sample.rows`` fits, and on how small a slice the least
    of both does. 0, or None: nothing fits. ``learners`` and ``samplers`` were found under the
    settings as they are."""
    micro, rows = _micro_tokens(settings, learners), _rows(settings, samplers)
    progress.log(_said("learn.micro_tokens", micro))
    progress.log(_said("sample.rows", rows))
    smallest, smaller = _smallest_slice(settings)
    for topology, why in smaller.items():
        progress.log(f"search: {topology} does not fit: {why}")
    least = "one packed row in a micro-batch"
    progress.log(f"search: the smallest slice, with {least} and {FEWEST} rows: {smallest}")
    if smallest is None and settings.mesh.fsdp == 1:
        progress.log("search: mesh.fsdp is 1, so that every device holds the whole learner")
    return {
        "micro_tokens": dataclasses.asdict(micro),
        "rows": dataclasses.asdict(rows),
        "smallest_slice": smallest,
        "smaller_slices": smaller,
    }


def _said(name: str, answer: Answer) -> str:
    more = "more is of no use" if answer.too_many is None else f"{answer.too_many} does not"
    return f"search: {name} {answer.fits} fits, {more}"


def _micro_tokens(settings: PlanConfig, found: Sequence[Finding]) -> Answer:
    """By whole packed rows on a device."""
    widest = _learn(dataclasses.replace(settings, dry_run=True), 1 << 40)
    tokens = max(finding.sizes["row_tokens"] for finding in widest)
    most = max(finding.sizes["micro_rows"] for finding in widest)
    known = {max(finding.sizes["micro_rows"] for finding in found): _most(found)}
    memory = chips.find(settings.topology).memory
    answer = largest(lambda n: _most(_learn(settings, n * tokens)), memory, most, known)
    return _times(answer, tokens, most)


def _rows(settings: PlanConfig, found: Sequence[Finding]) -> Answer:
    """By the least number of seats."""
    wanted = sampling(prepare(_with_rows(settings, 1 << 20, dry_run=True)), "train").sizes["rows"]
    most = -(-wanted // FEWEST)

    def total(n: int) -> int | None:
        here = prepare(_with_rows(settings, n * FEWEST))
        return _most([sampling(here, name) for name in SETS])

    now = max(finding.sizes["rows"] for finding in found)
    known = {now // FEWEST: _most(found)} if now % FEWEST == 0 else {}
    answer = largest(total, chips.find(settings.topology).memory, most, known)
    return _times(answer, FEWEST, most)


def _times(found: tuple[int, int], unit: int, most: int) -> Answer:
    fits, too_many = found
    return Answer(fits * unit, None if too_many > most else too_many * unit)


def _learn(settings: PlanConfig, micro_tokens: int) -> list[Finding]:
    learn = dataclasses.replace(settings.learn, micro_tokens=micro_tokens)
    here = prepare(dataclasses.replace(settings, learn=learn))
    return [learning(here, phase) for phase in here.training]


def _with_rows(settings: PlanConfig, rows: int, **changes: Any) -> PlanConfig:
    sample = dataclasses.replace(settings.sample, rows=rows)
    return dataclasses.replace(settings, sample=sample, **changes)


def _most(findings: Sequence[Finding]) -> int | None:
    """The most bytes of any; None where the compiler refused one."""
    sizes = [finding.bytes for finding in findings]
    return None if None in sizes else max(sizes)


def largest(
    total: Callable[[int], int | None],
    room: int,
    most: int,
    known: Mapping[int, int | None] | None = None,
) -> tuple[int, int]:
    """The largest n seen to fit and the smallest seen not to, of 1 to ``most``; 0 and ``most + 1``
    where there is none.

    Args:
      total: bytes of n, growing with it; None: more than anyone could count.
      room: most bytes.
      most: largest n of interest.
      known: of some n, bytes as ``total`` gives them.
    """
    seen = {n: size for n, size in (known or {}).items() if 1 <= n <= most}
    for _ in range(TRIES):
        low, high = _bounds(seen, room, most)
        if high - low <= 1:
            break
        n = min(max(_guess(seen, room, low, high, most), low + 1), high - 1)
        seen[n] = total(n)
    return _bounds(seen, room, most)


def _bounds(seen: Mapping[int, int | None], room: int, most: int) -> tuple[int, int]:
    fitting = {n for n, size in seen.items() if size is not None and size <= room}
    return max(fitting, default=0), min(seen.keys() - fitting, default=most + 1)


def _guess(seen: Mapping[int, int | None], room: int, low: int, high: int, most: int) -> int:
    """Where the line through the two largest whose bytes are known meets the room; before there
    are two, the ends."""
    sized = sorted((n, size) for n, size in seen.items() if size is not None)
    if len(sized) < 2:
        return (most if high > most else (low + high) // 2) if low else 1
    (a, small), (b, large) = sized[-2:]
    if large <= small:
        return (low + high) // 2
    return a + int((room - small) * (b - a) // (large - small))


def _smallest_slice(settings: PlanConfig) -> tuple[str | None, dict[str, str]]:
    """The first of the chip's slices, from the smallest, on which the least settings fit; and why
    the others before it do not."""
    chip, smaller = chips.find(settings.topology), {}
    least = _with_rows(settings, FEWEST)
    least = dataclasses.replace(least, learn=dataclasses.replace(settings.learn, micro_tokens=1))
    for topology in chip.slices():
        there = dataclasses.replace(least, topology=topology)
        why = _why_not(dataclasses.replace(there, dry_run=True)) or _why_not(there)
        if why is None:
            return topology, smaller
        smaller[topology] = why
    return None, smaller


def _why_not(settings: PlanConfig) -> str | None:
    """Why a slice does not do; None: it does. Without compiling, as far as counting says."""
    try:
        here = prepare(settings)
        findings = {phase.name: learning(here, phase) for phase in here.training}
        findings |= {name: sampling(here, name) for name in SETS}
    except ValueError as error:  # the mesh does not divide the model
        return str(error)
    for name, finding in findings.items():
        if not finding.fits(here.chip.memory):
            size = "more" if finding.bytes is None else said_size(finding.bytes)
            return f"{name} takes {size} of {said_size(here.chip.memory)} on a device"
    return None
