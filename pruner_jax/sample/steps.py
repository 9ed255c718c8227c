"""Beam search by steps (PaD, arXiv 2305.13888, "step-by-step verification"): a step is one line.

Each beam is the beginning of a response, up to the end of a line. It goes on with the likeliest
line (token by token) and a few sampled ones; those that read alike are one; what stays are the
beams with the highest

    S(r_1..i) = log p(r_1..i | x) + sum over j <= i of log f(r_1..j)

where f in (0, 1] says how far a step can be trusted. It is a plug-in: the paper compares sentences
by embeddings, the default here runs the program as far as it goes (`Executes`). Takes prompts,
gives for each the best response as one row of Rollouts. Left out: grading them, and voting
(`run.programs`).

The lines of a beam depend on the seed, the problem, its visit, what stands before them, and their
place among them; not on other problems, nor on the rank of the beam.
"""

from __future__ import annotations

import codeop
import dataclasses
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pruner_jax.policy.config import ModelConfig
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.records import Given, Records, Spellings
from pruner_jax.sample.sampler import SampleStats, sample
from pruner_jax.types import Origin, Problem, Prompts, Rollouts
from pruner_jax.verify.checkers import program

Scorer = Callable[[Problem, str], float]
"""f of the last step: from the problem and the response as far as it goes (whole lines)."""

Line = tuple[int, np.ndarray, np.ndarray]
"""The prompt that it goes on from, its tokens, their log-probabilities."""

Draw = Callable[[Prompts, np.ndarray], tuple[list[Line], SampleStats]]
"""A few lines for every prompt, at most limit_P tokens long, and what they took."""


@dataclasses.dataclass(frozen=True)
class Executes:
    """f = 1 where the program so far runs without an error, ``floor`` where it does not.

    A block or bracket that is still open is no error, nor is what the sandbox does not know, nor a
    response without a program. Whether a value comes out is not asked.
    """

    floor: float = 1e-3
    seconds: float = 1.0  # these three as in `program.check`
    memory_mb: int = 64
    recursion: int = 1000

    def __call__(self, problem: Problem, text: str) -> float:
        """Run what stands there."""
        source = program.extract(text)
        if source is None:
            return 1.0
        try:
            if codeop.compile_command(source, symbol="exec") is None:
                return 1.0  # goes on in the next line
            # In this process, not in a worker of the verifier with its limit on memory: the program
            # runs in the sandbox's own process under the sandbox's limits, and what comes back is a
            # number or at most 10,000 characters.
            run = program.execute(
                source, seconds=self.seconds, memory_mb=self.memory_mb, recursion=self.recursion
            )
        except (SyntaxError, ValueError, OverflowError, MemoryError, RuntimeError):
            return self.floor
        return 1.0 if run.failure in ("", "Unsupported") else self.floor


@dataclasses.dataclass(frozen=True)
class Beam:
    """The beginning of a response, and what it is worth."""

    tokens: np.ndarray  # int32
    logp: np.ndarray  # float32, as many
    text: str  # of them, without an end token
    trust: float = 0.0  # sum of log f over its steps
    finished: bool = False  # it has its end token
    open: bool = True  # it can go on

    @property
    def score(self) -> float:
        """S."""
        return float(self.logp.sum(dtype=np.float64)) + self.trust


def step_beam(
    params: Any,
    config: ModelConfig,
    prompts: Prompts,
    *,
    beams: int,
    chains: int,
    limit: int,
    seed: int,
    end_ids: Sequence[int],
    line_ids: Sequence[int],
    close_ids: Spellings,
    opened: bool | Sequence[bool] | np.ndarray,
    decode: Callable[[np.ndarray], str],
    options: SampleOptions,
    score: Scorer | None = None,
    open_ids: Spellings = (),
    on_progress: Callable[[int, int, int], None] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Rollouts, np.ndarray, SampleStats]:
    """The best response to each of P prompts, one row each; the tokens of all its beams, int64 [P];
    and what all of it took.

    Args:
      params, config, prompts, seed, end_ids, close_ids, open_ids, opened, decode, options, mesh: as
        in `sampler.sample`.
      beams: beginnings that are kept for each prompt.
      chains: lines that each goes on with; all but the first are sampled (at temperature 0: none).
      limit: most tokens of a response.
      line_ids: tokens that end a line, see `line_ends`.
      score: f; None: whether the program so far runs.
      on_progress: called after every line with (prompts done, P, tokens written).

    Returns:
      Rollouts with B = P; a row is unfinished only where no beam ended within the limit.
      Log-probabilities are of softmax(logits / temperature), in S too.
    """
    if beams < 1 or chains < 1:
        raise ValueError(f"beams is {beams} and chains is {chains}; allowed: 1 or more of each")

    longest = max((len(tokens) for tokens in prompts.tokens), default=0) + limit

    ends = sorted({*end_ids, *line_ids})

    def lines(
        asked: Prompts, limit_P: np.ndarray, each: int, options: SampleOptions
    ) -> tuple[list[Line], SampleStats]:
        rollouts, stats = sample(
            params,
            config,
            asked,
            samples=each,
            limit=np.repeat(limit_P, each),
            seed=seed,
            end_ids=ends,
            close_ids=close_ids,
            opened=False,
            decode=lambda tokens: "",
            options=_few_shapes(options, each * len(asked), longest),
            given=_numbers(asked, each),
            mesh=mesh,
        )
        rows = zip(rollouts.group_B, rollouts.tokens_BT, rollouts.logp_BT, rollouts.length_B)
        return [(int(p), tokens[:n], logp[:n]) for p, tokens, logp, n in rows], stats

    def draw(asked: Prompts, limit_P: np.ndarray) -> tuple[list[Line], SampleStats]:
        likeliest = dataclasses.replace(options, top_k=1)  # with the same log-probabilities
        found, stats = lines(asked, limit_P, 1, likeliest)
        if chains == 1 or options.temperature == 0:
            return found, stats
        others, more = lines(asked, limit_P, chains - 1, options)
        return found + others, stats + more

    found, tokens_P, stats = search(
        draw,
        prompts,
        beams=beams,
        limit=limit,
        end_ids=end_ids,
        decode=decode,
        score=score or Executes(),
        on_progress=on_progress,
    )
    sampled = np.uint8(Origin.SAMPLED)
    given = {
        p: Given(beam.tokens, beam.logp, np.full(len(beam.tokens), sampled))
        for p, beam in enumerate(found)
    }
    records = Records(
        prompts, samples=1, limit=limit, end_ids=end_ids, context=config.context, given=given
    )
    rollouts = records.rollouts(
        decode,
        temperature=options.temperature,
        close_ids=close_ids,
        open_ids=open_ids,
        opened_P=np.broadcast_to(np.asarray(opened, bool), len(prompts)),
    )
    return rollouts, tokens_P, stats


def _few_shapes(options: SampleOptions, rows: int, longest: int) -> SampleOptions:
    """Settings under which draws share compiled programs, though beams get fewer and longer from
    line to line: seats in powers of two, caches for half the longest row or all of it. Nothing is
    shared: whether all draws fit into the seats changes from line to line, and the program with it.
    """
    tile = options.resolve(jax.default_backend()).slot_multiple
    return dataclasses.replace(
        options,
        rows=min(options.rows, 1 << (rows.bit_length() - 1)),
        slot_multiple=-(-longest // (2 * tile)) * tile,
        share_prompts=False,
    )


def line_ends(decode: Callable[[Sequence[int]], str], size: int) -> tuple[int, ...]:
    """Every token of ``size`` with a line break in it, alone or merged with its neighbours."""
    return tuple(i for i in range(size) if "\n" in decode([i]))


def search(
    draw: Draw,
    prompts: Prompts,
    *,
    beams: int,
    limit: int,
    end_ids: Sequence[int],
    decode: Callable[[np.ndarray], str],
    score: Scorer,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> tuple[list[Beam], np.ndarray, SampleStats]:
    """The best beam of each prompt, and what it took; see `step_beam`."""
    empty = Beam(np.zeros(0, np.int32), np.zeros(0, np.float32), "")
    kept_P = [[empty] for _ in range(len(prompts))]
    tokens_P, stats = np.zeros(len(prompts), np.int64), SampleStats()
    while any(beam.open for kept in kept_P for beam in kept):
        growing = [(p, beam) for p, kept in enumerate(kept_P) for beam in kept if beam.open]
        lines, took = draw(*_ask(prompts, growing, limit))
        stats = stats + took
        longer_P: list[dict[tuple[str, bool, bool], Beam]] = [{} for _ in kept_P]
        for group, tokens, logp in lines:
            p, beam = growing[group]
            tokens_P[p] += len(tokens)
            new = _grow(beam, tokens, logp, limit, end_ids, decode)
            reads = (new.text, new.finished, new.open)
            alike = longer_P[p].get(reads)
            if alike is None or new.score > alike.score:
                longer_P[p][reads] = new
        for p, longer in enumerate(longer_P):
            scored = [_judge(beam, prompts.problems[p], score) for beam in longer.values()]
            kept_P[p] = _best([b for b in kept_P[p] if not b.open] + scored, beams)
        if on_progress is not None:
            done = sum(not any(beam.open for beam in kept) for kept in kept_P)
            on_progress(done, len(prompts), stats.tokens)
    return [kept[0] for kept in kept_P], tokens_P, stats


def _ask(
    prompts: Prompts, growing: Sequence[tuple[int, Beam]], limit: int
) -> tuple[Prompts, np.ndarray]:
    """The beams as parts of their prompts, and how many tokens each may still get, int32 [P]."""
    of = [p for p, _ in growing]
    asked = Prompts(
        problems=tuple(prompts.problems[p] for p in of),
        text=tuple(prompts.text[p] + beam.text for p, beam in growing),
        tokens=tuple(
            np.concatenate([prompts.tokens[p], beam.tokens]).astype(np.int32) for p, beam in growing
        ),
        purpose=prompts.purpose,
        visit_P=prompts.visit_P[of],
    )
    return asked, np.array([limit - len(beam.tokens) for _, beam in growing], np.int32)


def _numbers(asked: Prompts, each: int) -> dict[int, Given]:
    """Rows that begin with nothing, but have numbers for their random keys that hang on all that
    stands before them, and on their place among ``each`` of them."""
    nothing = np.zeros(0, np.int32)
    given = {}
    for p, tokens in enumerate(asked.tokens):
        before = zlib.crc32(np.asarray(tokens, np.int32).tobytes())
        for place in range(each):
            number = zlib.crc32(b"%d" % place, before) & 0x7FFFFFFF
            given[p * each + place] = Given(nothing, nothing, nothing, sample=number)
    return given


def _grow(
    beam: Beam,
    tokens: np.ndarray,
    logp: np.ndarray,
    limit: int,
    end_ids: Sequence[int],
    decode: Callable[[np.ndarray], str],
) -> Beam:
    """The beam with one more line."""
    tokens = np.concatenate([beam.tokens, tokens]).astype(np.int32)
    finished = int(tokens[-1]) in end_ids
    return Beam(
        tokens=tokens,
        logp=np.concatenate([beam.logp, logp]).astype(np.float32),
        text=decode(tokens[:-1] if finished else tokens),
        trust=beam.trust,
        finished=finished,
        open=not finished and len(tokens) < limit,
    )


def _judge(beam: Beam, problem: Problem, score: Scorer) -> Beam:
    """The beam with f of its last line; a line that the limit has cut is no step."""
    if not beam.finished and not beam.open:
        return beam
    trust = score(problem, beam.text)
    if not 0 < trust <= 1:
        raise ValueError(
            f"the step scorer gave {trust} to a step of problem {problem.id!r}; allowed: numbers "
            "above 0, at most 1"
        )
    return dataclasses.replace(beam, trust=beam.trust + math.log(trust))


def _best(candidates: list[Beam], beams: int) -> list[Beam]:
    """The best beams, the best response first; S only falls, so what lies below a finished response
    need not go on. Cut ones come after all others."""
    cut = [beam for beam in candidates if not beam.finished and not beam.open]
    rest = sorted((b for b in candidates if b.finished or b.open), key=_rank)[:beams]
    done = [beam for beam in rest if beam.finished]
    worthy = [b for b in rest if b.open and not (done and b.score <= done[0].score)]
    if worthy:
        return sorted(done + worthy, key=_rank)
    return done or sorted(cut, key=_rank)[:1]


def _rank(beam: Beam) -> tuple[float, str]:
    return -beam.score, beam.text
