"""benchmarks/shorter.py: its models end answers as they are to; its table is of the steps."""

import json

import jax
import numpy as np
import pytest

import pruner_jax


@pytest.fixture(scope="module")
def script(benchmark):
    """The script, and what it takes from rl_step.py."""
    benchmark("rl_step")
    return benchmark("shorter")


@pytest.mark.parametrize(("mean", "stages"), [(96, 1), (32, 8)])
def test_the_chance_gives_the_mean_length(script, mean, stages):
    chance = script.chance(mean, stages, 128)
    lengths = np.random.default_rng(0).geometric(chance, (200_000, stages)).sum(1)
    assert np.minimum(lengths, 128).mean() == pytest.approx(mean, rel=0.01)


@pytest.mark.usefixtures("quick_to_compile")
def test_a_token_is_followed_by_its_own_stage_or_the_next_one(script, tmp_path):
    model = script.rl_step.write_model(
        tmp_path / "model", script.rl_step.ROOT / "configs" / "tiny_reasoner"
    )
    script.write_stages(model, 8, 0.2)
    policy = pruner_jax.load(model)
    tokens = np.arange(3, 512, 37)[None]
    share_TV = np.asarray(jax.nn.softmax(pruner_jax.logits(policy, tokens)[0]))
    ends = policy.generation["eos_token_id"]
    stage_V = np.arange(512) // 64
    stage_V[ends] = 8
    found_TS = np.array([[row[stage_V == s].sum() for s in range(9)] for row in share_TV])
    wanted_TS = 0.8 * np.eye(9)[stage_V[tokens[0]]] + 0.2 * np.eye(9)[stage_V[tokens[0]] + 1]
    np.testing.assert_allclose(found_TS, wanted_TS, atol=0.01)


def test_the_table_of_a_run_leaves_out_what_is_no_step(script, tmp_path):
    lines = [{"kind": "evaluate", "step": 0, "time/evaluate": 9.0}]
    for step in range(1, 41):
        times = {"time/rollout": 0.02 * (41 - step), "time/learn": 0.0, "time/save": 5.0}
        times["perf/wall_seconds"] = sum(times.values()) + 0.1  # which no phase has
        lines.append({"kind": "step", "step": step, "completions/mean_length": 41 - step} | times)
    lines[3]["perf/compiled"] = 2
    lines[3]["perf/wall_seconds"] = 60.0
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = script.read(tmp_path)
    # The longest stretch: 31 to 40 tokens without the 38 that compiled; its median takes 0.80 s.
    # Half of their mean, 17.6 tokens, takes 0.1 + 0.02 * 17.6 = 0.45 s.
    assert script.by_length(steps, 4).endswith(
        "At half of 35.2 tokens a step takes 0.57 of the time (interpolated)."
    )
    assert script.draw(steps, 4).count("<circle") == 39
