"""Self-refinement (PaD, arXiv 2305.13888): shape steps that add rows which repair a program.

Such a row is a correct one once more, trained under a prompt that shows a failing attempt and the
message of its error: `Refine` takes the attempts that were sampled, `Inject` makes some by breaking
correct programs (`inject`). Left out: repairing while answering (`run.programs`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.context import Context, Scene
from pruner_jax.objective.inject import KINDS, check_template, feedback, is_program, variants
from pruner_jax.objective.rows import append, rewrite
from pruner_jax.objective.slots import uniform
from pruner_jax.types import Graded, Rollouts, Verdict, take_rows


@dataclasses.dataclass(frozen=True)
class Refine:
    """PaD's self-refinement: every wrong row of a group that also has a correct one adds a row, the
    shortest correct one once more, trained under a prompt that shows the wrong attempt.

    ``template``: see `inject.check_template`; the attempt is the program, or the whole text where
    there is none. The parent of the new row is the wrong one.
    """

    template: str

    def __post_init__(self) -> None:
        check_template(self.template)

    def __call__(self, graded: Graded, scene: Scene) -> Graded:
        rollouts, groups = graded.rollouts, scene.groups
        length_PG = groups.measure("length")
        sources, parents, prompts = [], [], []
        for row_G, correct_G, wrong_G, length_G in zip(
            groups.row_PG, groups.subset("correct"), groups.subset("wrong"), length_PG
        ):
            if correct_G.any():
                best = row_G[np.argmin(np.where(correct_G, length_G, np.inf))]
                sources += [best] * int(wrong_G.sum())
                parents += row_G[wrong_G].tolist()
        for b in parents:
            answer = graded.extracted[b]
            attempt = answer if is_program(answer) else rollouts.text[b]
            prompts.append(_repair(self.template, graded, b, attempt, scene))
        return _once_more(graded, sources, parents, prompts)


@dataclasses.dataclass(frozen=True)
class Inject:
    """PaD's error injection: every correct program is broken ``per_row`` times, and for each broken
    one a row is added, the correct row once more, trained under a prompt that shows the broken
    program and the message that it really gives. What still returns the right value is dropped.

    Broken programs that the tokenizer cannot spell are not made; so a row whose program allows few
    errors gets fewer. The parent of the new row is the correct one. ``template``: see
    `inject.check_template`.
    """

    template: str

    per_row: int = 1
    """Broken versions of each correct program."""

    kinds: tuple[str, ...] = KINDS
    """Errors to draw from, evenly among those that apply; see `inject`."""

    def __post_init__(self) -> None:
        check_template(self.template)
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"kinds is {self.kinds}; allowed: one or more of {', '.join(KINDS)}")
        if self.per_row < 1:
            raise ValueError(f"per_row is {self.per_row}; allowed: 1 or more")

    def __call__(self, graded: Graded, scene: Scene) -> Graded:
        old, context = graded.rollouts, scene.context
        repairs_B = [prompt is not None for prompt in old.train_tokens or (None,) * len(old)]
        sources, programs, texts = [], [], []
        for b in np.flatnonzero(graded.correct_B & ~np.array(repairs_B, bool)):
            program = graded.extracted[b]
            for broken in self._break(program, old, b, context) if is_program(program) else ():
                before, _, after = old.text[b].rpartition(program)
                sources.append(int(b))
                programs.append(broken)
                texts.append(before + broken + after)
        if not sources:
            return graded
        tried = context.grade(rewrite(take_rows(old, np.array(sources)), texts, context))
        fails = [i for i, v in enumerate(tried.verdict_B) if v in (Verdict.WRONG, Verdict.TIMEOUT)]
        prompts = [_repair(self.template, tried, i, programs[i], scene) for i in fails]
        sources = [sources[i] for i in fails]
        return _once_more(graded, sources, sources, prompts)

    def _break(self, program: str, rollouts: Rollouts, b: int, context: Context) -> list[str]:
        """Different versions of a program that the tokenizer can spell; chance hangs on the row."""
        problem = rollouts.prompts.problems[rollouts.group_B[b]].id
        dice = uniform(context.seed, context.step, problem, rollouts.sample_B[b], "inject")
        rng = np.random.default_rng(int(dice * 2**53))
        kinds, pools, chosen = list(dict.fromkeys(self.kinds)), {}, []
        while kinds and len(chosen) < self.per_row:
            kind = kinds[int(rng.integers(len(kinds)))]
            if kind not in pools:
                found = variants(program, kind)
                pools[kind] = [found[i] for i in rng.permutation(len(found))]
            while pools[kind]:
                broken = pools[kind].pop()
                if context.decode(context.encode(broken)) == broken:
                    chosen.append(broken)
                    break
            else:
                kinds.remove(kind)
        return chosen


def _repair(template: str, graded: Graded, row: int, attempt: str, scene: Scene) -> np.ndarray:
    """The prompt that asks to repair a row's attempt."""
    problem = graded.rollouts.prompts.problems[graded.rollouts.group_B[row]]
    detail = graded.detail[row] if graded.detail else ""
    verdict = Verdict(int(graded.verdict_B[row]))
    return scene.context.prompt(problem, feedback(template, problem, attempt, verdict, detail))


def _once_more(
    graded: Graded, sources: list[int], parents: list[int], prompts: list[np.ndarray]
) -> Graded:
    """The rows ``sources`` added again, each trained under a prompt of its own."""
    if not sources:
        return graded
    added = take_rows(graded, np.array(sources))
    rollouts = dataclasses.replace(
        added.rollouts,
        logp_BT=np.full_like(added.rollouts.logp_BT, np.nan),
        parent_B=np.array(parents, np.int32),
        train_tokens=tuple(prompts),
    )
    return append(graded, dataclasses.replace(added, rollouts=rollouts))
