"""The search of a plan: the largest micro-batch and the most rows that fit a slice, and the
smallest slice that fits.

Every answer was compiled. Memory grows almost along a line, so the line through what is known says
where to look next, and few compilations do: through what is counted without any rows, what was
compiled, and what the compiler says of a program that it refuses.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pruner_jax.config import PlanConfig
from pruner_jax.pod import chips
from pruner_jax.report.progress import Progress
from pruner_jax.run.finding import learning, prepare, sampling
from pruner_jax.run.found import Finding
from pruner_jax.run.memory import said_size
from pruner_jax.sample.layout import FEWEST

TRIES = 6  # compilations for one answer

# How XLA:TPU says what a program that it refuses would take, arguments and all, in either way.
_USED = re.compile(r"(?:Used|HLO temporaries) \(?(\d+(?:\.\d+)?)([KMGT]?)\b")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True)
class Answer:
    """The most that was seen to fit, and the least that was seen not to (None: nothing more is
    wanted)."""

    fits: int
    too_many: int | None
    untried: int  # sizes between the two that nobody knows about, for the tries were used up


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A setting whose largest value is looked for, counted in units: of ``n`` of them."""

    name: str
    unit: int
    most: int  # largest n of any use
    find: Callable[[int], list[Finding]]
    known: Mapping[int, int | None]  # bytes of some n

    def answer(self, memory: int, progress: Progress) -> Answer:
        """Found by compiling; each try is told of."""

        def total(n: int) -> int | None:
            progress.log(f"search: trying {self.name} {n * self.unit}")
            size = _most(self.find(n), memory)
            takes = "more than the compiler could say" if size is None else said_size(size)
            fits = "fits" if size is not None and size <= memory else "does not fit"
            progress.log(f"search: {self.name} {n * self.unit} takes {takes}: {fits}")
            return size

        fits, too_many = largest(total, memory, self.most, self.known)
        answer = Answer(
            fits * self.unit,
            None if too_many > self.most else too_many * self.unit,
            too_many - fits - 1,
        )
        progress.log(f"search: {self._said(answer)}")
        return answer

    def _said(self, answer: Answer) -> str:
        if not answer.fits:
            return f"not even {answer.too_many} of {self.name} fit"
        more = "more is of no use" if answer.too_many is None else f"{answer.too_many} does not"
        rest = f"; not narrowed further after {TRIES} tries" if answer.untried else ""
        return f"{self.name} {answer.fits} fits, {more}{rest}"


def search(
    settings: PlanConfig,
    learners: Sequence[Finding],
    samplers: Sequence[Finding],
    progress: Progress,
) -> dict[str, Any]:
    """What of ``learn.micro_tokens`` and ``sample.rows`` fits, and on how small a slice the least
    of both does. 0, or None: nothing fits. ``learners`` and ``samplers`` were found under the
    settings as they are."""
    memory = chips.find(settings.topology).memory
    micro = _micro_tokens(settings, learners, memory).answer(memory, progress)
    rows = _rows(settings, samplers, memory).answer(memory, progress)
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


def _micro_tokens(settings: PlanConfig, found: Sequence[Finding], memory: int) -> Wanted:
    """By whole packed rows on a device."""
    widest = _learn(dataclasses.replace(settings, dry_run=True), 1 << 40)
    tokens = max(finding.sizes["row_tokens"] for finding in widest)
    none = max(_counted(finding, but="batch") for finding in found)
    now = max(finding.sizes["micro_rows"] for finding in found)
    return Wanted(
        name="learn.micro_tokens",
        unit=tokens,
        most=max(finding.sizes["micro_rows"] for finding in widest),
        find=lambda n: _learn(settings, n * tokens),
        known={0: none, now: _most(found, memory)},
    )


def _rows(settings: PlanConfig, found: Sequence[Finding], memory: int) -> Wanted:
    """By the least number of seats."""
    widest = prepare(_with_rows(settings, 1 << 20, dry_run=True))
    wanted = max(sampling(widest, name).sizes["rows"] for name in widest.writings)

    def find(n: int) -> list[Finding]:
        here = prepare(_with_rows(settings, n * FEWEST))
        return [sampling(here, name) for name in here.writings]

    none = max(_counted(finding, but="cache") for finding in found)
    now = max(finding.sizes["rows"] for finding in found)
    known = {now // FEWEST: _most(found, memory)} if now % FEWEST == 0 else {}
    return Wanted("sample.rows", FEWEST, -(-wanted // FEWEST), find, {0: none, **known})


def _counted(finding: Finding, but: str) -> int:
    """Bytes that lie there whatever the number of rows."""
    return sum(size for name, size in finding.counted.items() if name != but)


def _learn(settings: PlanConfig, micro_tokens: int) -> list[Finding]:
    learn = dataclasses.replace(settings.learn, micro_tokens=micro_tokens)
    here = prepare(dataclasses.replace(settings, learn=learn))
    return [learning(here, phase) for phase in here.training]


def _with_rows(settings: PlanConfig, rows: int, **changes: Any) -> PlanConfig:
    sample = dataclasses.replace(settings.sample, rows=rows)
    return dataclasses.replace(settings, sample=sample, **changes)


def _most(findings: Sequence[Finding], memory: int) -> int | None:
    """The most bytes of any; None where the compiler refused one and did not say its size."""
    sizes = [_size(finding, memory) for finding in findings]
    return None if None in sizes else max(sizes)


def _size(finding: Finding, memory: int) -> int | None:
    if finding.refusal is None:
        return finding.bytes
    told = _USED.search(finding.refusal)
    if told is None:
        return None
    # The figure is rounded, and memory may be in pieces: what is refused does not fit.
    return max(memory + 1, finding.beside + int(float(told[1]) * _UNITS[told[2]]))


def largest(
    total: Callable[[int], int | None],
    room: int,
    most: int,
    known: Mapping[int, int | None] | None = None,
) -> tuple[int, int]:
    """The largest n seen to fit and the smallest seen not to, of 1 to ``most``; 0 and ``most + 1``
    where there is none. Between them is nothing, unless ``TRIES`` were used up.

    Args:
      total: bytes of n, growing with it; None: more than anyone could count.
      room: most bytes.
      most: largest n of interest.
      known: of some n, bytes as ``total`` gives them; of 0, what lies there anyway.
    """
    seen = {n: size for n, size in (known or {}).items() if 0 <= n <= most}
    for _ in range(TRIES):
        low, high = _bounds(seen, room, most)
        if high - low <= 1:
            break
        n = _guess(seen, room, low, high, most)
        seen[n] = total(n)
    return _bounds(seen, room, most)


def _bounds(seen: Mapping[int, int | None], room: int, most: int) -> tuple[int, int]:
    fitting = {n for n, size in seen.items() if size is not None and size <= room}
    return max(fitting, default=0), max(1, min(seen.keys() - fitting, default=most + 1))


def _guess(seen: Mapping[int, int | None], room: int, low: int, high: int, most: int) -> int:
    """An n between the bounds: where the line meets the room that goes through the largest that
    fits and, of the others whose bytes are known, the one that comes nearest to the room."""
    sized = {n: size for n, size in seen.items() if size is not None}
    if low not in sized or len(sized) < 2:
        return low + 1
    other = min(sized.keys() - {low}, key=lambda n: abs(sized[n] - room))
    rise = (sized[other] - sized[low]) / (other - low)
    meets = low + int((room - sized[low]) // rise) if rise > 0 else high
    if meets < high:
        return max(meets, low + 1)
    return most if high > most else (low + high) // 2  # no line leads to what has no size


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
        findings |= {name: sampling(here, name) for name in here.writings}
    except ValueError as error:  # the mesh does not divide the model
        return str(error)
    for name, finding in findings.items():
        if not finding.fits(here.chip.memory):
            size = "more" if finding.bytes is None else said_size(finding.bytes)
            return f"{name} takes {size} of {said_size(here.chip.memory)} on a device"
    return None
