"""Small evaluations for the tests of this room."""

import numpy as np
import pytest

from pruner_jax.measure.outcomes import Outcomes, from_rows
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts


@pytest.fixture
def evaluation():
    """Make Outcomes from nested lists: correct[p][g], length[p][g]; unfinished = at the limit."""

    def make(correct, length, limit=100, difficulty=None, thinking=None) -> Outcomes:
        sizes = [len(row) for row in correct]
        ids = np.repeat([f"q{p}" for p in range(len(correct))], sizes)
        hard = np.full(len(correct), np.nan) if difficulty is None else np.array(difficulty, float)
        length_B = np.concatenate([np.asarray(row) for row in length])
        thinking_B = length_B // 2 if thinking is None else np.concatenate(thinking)
        return from_rows(
            list(ids),
            np.repeat(hard, sizes),
            np.concatenate([np.asarray(row, bool) for row in correct]),
            length_B,
            thinking_B,
            length_B < limit,
            limit,
        )

    return make


@pytest.fixture(scope="session")
def simulated():
    """Make Outcomes of a simulated model: solve rates vary by problem, lengths are log-normal."""

    def make(seed, problems=80, samples=4, rate=0.8, spread=0.4, tokens=40.0, limit=200):
        rng = np.random.default_rng(seed)
        ease_P = np.random.default_rng(0).beta(2, 2, problems)  # whatever the seed: same problems
        rate_P = np.clip(rate + spread * (ease_P - 0.5), 0, 1)
        correct_PG = rng.random((problems, samples)) < rate_P[:, None]
        length_PG = np.ceil(tokens * np.exp(0.4 * rng.normal(size=correct_PG.shape)))
        length_B = np.clip(length_PG, 1, limit).astype(int).ravel()
        finished_B = length_B < limit
        return from_rows(
            list(np.repeat([f"q{p}" for p in range(problems)], samples)),
            np.repeat(np.floor(5 * (1 - ease_P)), samples),
            correct_PG.ravel() & finished_B,
            length_B,
            length_B // 2,
            finished_B,
            limit,
        )

    return make


@pytest.fixture
def graded_rows():
    """Make Graded rows over three problems from what was found in each row."""

    def make(group_B, verdict_B, length_B, thinking_B, finished_B, limit=9):
        problems = (
            Problem("a", "1+1", "2", difficulty=1.0),
            Problem("b", "1+2", "3"),
            Problem("c", "1+3", "4", difficulty=3.0),
        )
        n = len(group_B)
        prompts = Prompts(
            problems,
            ("", "", ""),
            (np.zeros(1, np.int32),) * 3,
            Purpose.TEST,
            np.zeros(3, np.int32),
        )
        tokens_BT = np.tile(np.arange(limit, dtype=np.int32), (n, 1))
        rollouts = Rollouts(
            prompts=prompts,
            group_B=np.array(group_B, np.int32),
            sample_B=np.zeros(n, np.int32),
            tokens_BT=tokens_BT,
            logp_BT=np.zeros_like(tokens_BT, np.float32),
            origin_BT=np.zeros_like(tokens_BT, np.uint8),
            length_B=np.array(length_B, np.int32),
            thinking_B=np.array(thinking_B, np.int32),
            finished_B=np.array(finished_B),
            text=("",) * n,
            temperature=1.0,
            limit=limit,
            mode_B=np.zeros(n, np.int32),
            budget_B=np.full(n, -1, np.int32),
            parent_B=np.full(n, -1, np.int32),
        )
        return Graded(rollouts, np.array(verdict_B, np.int8), np.zeros(n, np.float32), (None,) * n)

    return make
