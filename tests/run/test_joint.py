"""Two models as one: statistics and costs by hand, then the verbs and a run with an expander."""

import io
import json

import numpy as np
import pytest
from test_prune import Died, at_visit, die, left_behind

from pruner_jax import cli
from pruner_jax.config import EvaluateConfig, SampleConfig, load
from pruner_jax.measure.options import EvaluateOptions
from pruner_jax.report.progress import Progress
from pruner_jax.run import joint, second
from pruner_jax.run.evaluate import evaluate_verb
from pruner_jax.run.generate import sample_verb
from pruner_jax.run.prune import prune
from pruner_jax.run.second import Second
from pruner_jax.sample.second import ServingOptions
from pruner_jax.text import TextOptions, split_thought

FAST = EvaluateOptions(resamples=200)


def pair(accuracy=(1.0, 0.5), chain=(30.0, 50.0), **others):
    """A pipeline on two problems."""
    columns = {
        "accuracy_P": accuracy,
        "chain_tokens_P": chain,
        "answer_tokens_P": (4.0, 6.0),
        "too_long_P": (0.5, 0.0),
        "leak_P": (1.0, 0.0),
        "masked_P": (1.0, 0.5),
        "bare_P": (0.0, 0.25),
        "alone_P": (1.0, 1.0),
        "alone_tokens_P": (60.0, 100.0),
        **others,
    }
    arrays = {name: np.array(column) for name, column in columns.items()}
    return joint.Joint(**arrays, large_read=20.0, expander_read=60.0)


def test_the_numbers_of_a_pipeline():
    found = joint.describe(pair(), FAST, seed=0)
    assert {name: part["value"] for name, part in found.items()} == {
        "accuracy": 0.75,
        "change": -0.25,
        "chain_tokens": 40.0,
        "answer_tokens": 5.0,
        "too_long": 0.25,
        "large_alone_accuracy": 1.0,
        "large_alone_tokens": 80.0,
        "expander_alone_accuracy": 0.125,
        "leak_rate": 0.5,
        "masked_accuracy": 0.75,
        "masked_gain": 0.625,
    }
    # Of two problems the draws are one, the other, or both: the gains are 1, 0.25 or between.
    gain = found["masked_gain"]
    assert gain["low"] == 0.25 and gain["high"] == 1.0


def test_two_pipelines_are_compared_by_problem():
    found = joint.compare(pair(), pair((1.0, 1.0), (10.0, 22.0)), FAST, seed=0)
    assert found["accuracy_change"]["value"] == 0.25
    assert found["change_from_alone"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["chain_ratio"]["value"] == pytest.approx(32 / 80)
    assert found["chain_ratio"]["low"] == pytest.approx(1 / 3)
    assert found["leak_change"]["value"] == 0.0


def test_what_a_thousand_requests_cost():
    """Alone 80 + 20 / 4 tokens; as a pipeline 40 + 20 / 4, and 5 + 60 / 4 of the expander, which
    has a tenth of the parameters."""
    large, small = (Second(None, {"w": np.zeros(n)}) for n in (100, 10))
    found = joint.costs(pair(), ServingOptions(large_price=2.0), large, small)
    assert found["large_alone"] == pytest.approx(2 * 85 / 1000)
    assert found["joint"] == pytest.approx((2 * 45 + 0.2 * 20) / 1000)
    assert found["ratio"] == pytest.approx(0.094 / 0.17) and found["price"] == pytest.approx(0.2)
    given = joint.costs(pair(), ServingOptions(price=0.5, read_share=0.0), large, small)
    assert given["joint"] == pytest.approx((40 + 0.5 * 5) / 1000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": [1, 0]},
        {"requests": 0},
        {"seconds": -1.0},
        {"price": -1.0},
        {"read_share": -0.1},
    ],
)
def test_settings_of_serving_have_ranges(wrong):
    with pytest.raises(ValueError, match=r"serving\.concurrency"):
        ServingOptions(**wrong)


@pytest.mark.parametrize(("most", "repeats"), [(1e9, 5), (25.0, 3), (0.0, 1)])
def test_serving_is_timed_in_turns_until_its_seconds_are_over(monkeypatch, most, repeats):
    """A clock on which 8 requests take the large model 6, 8, 6, 8... seconds alone and 4 s as a
    pipeline."""
    clock, calls = [0.0], []

    class Engine:
        def with_sampling(self, rows):
            return self

        def prompts(self, asked, **_):
            return asked

        def sample(self, params, asked, *, on_progress, **_):
            clock[0] += 8.0 if len(calls) % 4 else 6.0
            calls.append(len(asked))
            on_progress(len(asked), len(asked), 0)

    def respond(large, expander, options, asked, *, on_progress, **_):
        clock[0] += 4.0
        calls.append(len(asked))
        on_progress(1, len(asked), 0)
        on_progress(len(asked), len(asked), 0)
        on_progress(len(asked), len(asked), 0)

    monkeypatch.setattr(joint, "respond", respond)
    monkeypatch.setattr(joint.time, "perf_counter", lambda: clock[0])
    said = io.StringIO()
    side, options = Second(Engine(), None), ServingOptions([2], requests=3, seconds=most)
    with Progress(said, live=False) as progress:
        (found,) = joint.serve(
            side, side, None, options, ["a", "b", "c"], limit=9, progress=progress
        )
    assert calls == [4, 4] + [8, 8] * repeats  # a few for the compiler
    assert (found["requests"], found["repeats"]) == (8, repeats)
    assert found["joint"] == 4 * 2 / 8 and found["low"] == (2.0 if repeats == 1 else 1.5)
    assert found["low"] <= found["speedup"] <= found["high"] == 2.0
    total = (4 + 5 * 8) * 3
    assert f"2 at once: chains and answers: {3 * (4 + 8 * repeats)} of {total}" in said.getvalue()


def verb(capsys, *words):
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_measures_the_pipeline(model, tmp_path, capsys):
    found = verb(
        capsys,
        "evaluate",
        str(model),
        f"--against={model}",
        f"--expander.model={model}",
        "--expander.limit=6",
        "--problems.options.test=6",
        "--test.limit=12",
        "--test.samples=2",
        "--test.resamples=200",
        "--serving.concurrency=[1,3]",
        "--serving.requests=2",
        "--verify.workers=1",
        f"--out={tmp_path}",
    )
    assert found == json.loads((tmp_path / "evaluation.json").read_text())
    both = found["model"]["joint"]
    by_problem = json.loads((tmp_path / "model-joint.json").read_text())
    assert np.mean(by_problem["accuracy"]) == pytest.approx(both["accuracy"]["value"])
    assert {len(column) for column in by_problem.values()} == {6} and len(by_problem) == 9
    assert both["chain_tokens"]["value"] == found["model"]["mean_thinking_tokens"]
    assert both["large_alone_tokens"]["value"] == found["model"]["mean_tokens"]
    assert both["large_alone_accuracy"]["value"] == found["model"]["accuracy"]
    assert 0 < both["answer_tokens"]["value"] <= 6
    assert all(part["low"] <= part["value"] <= part["high"] for part in found["joint"].values())
    # The same model twice: the same draws, so nothing changes.
    assert found["joint"]["accuracy_change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["joint"]["chain_ratio"]["value"] == 1.0
    assert both["cost"]["price"] == 1.0  # as large as the large one
    serving = [(part["concurrency"], part["requests"]) for part in both["serving"]]
    assert serving == [(1, 4), (3, 12)]
    assert all(part["joint"] > 0 and part["large_alone"] > 0 for part in both["serving"])


def test_sample_shows_chain_and_answer(model, capsys):
    words = ["sample", str(model), "Find the last digit of the sum: C7 A4.", "--max_tokens=12"]
    chosen = ["--sample.temperature=0", "--samples=2"]
    alone = verb(capsys, *words, *chosen)["responses"]
    both = ["--expander.model", str(model), "--expander.limit=6"]
    found = verb(capsys, *words, *chosen, *both)["responses"]
    for whole, part in zip(alone, found, strict=True):
        assert part["chain"] == split_thought(whole["text"], TextOptions(), opened=True)[0]
        assert part["chain_tokens"] == whole["thinking_tokens"]
        assert part["chain_finished"] == (whole["finished"] or "</think>" in whole["text"])
        assert 0 < part["answer_tokens"] <= 6


@pytest.mark.parametrize("closing", ["</think>", "="])  # the second one comes early
def test_sample_says_which_chain_and_answer_were_cut(model, capsys, closing):
    words = [f"--model={model}", "--question=C7 A4.", "--max_tokens=12", "--samples=4"]
    words += [f"--expander.model={model}", "--expander.limit=2", f"--text.think_close={closing}"]
    found = sample_verb(load(SampleConfig, None, words))["responses"]
    told = capsys.readouterr().out
    cut = [part for part in found if not part["chain_finished"]]
    assert told.count("cut at the limit of 12") == len(cut)
    assert all(part["chain_tokens"] == 12 for part in cut)
    assert closing == "=" or cut
    short = [part for part in found if not part["finished"]]
    assert told.count("cut at the limit of 2]") == len(short) > 0


def test_an_expander_without_room_is_refused_before_anything_is_sampled(model, monkeypatch):
    monkeypatch.setattr("pruner_jax.run.engine.sample", lambda *_, **__: pytest.fail("sampled"))
    both = [f"--expander.model={model}", "--expander.limit=200", "--verify.workers=1"]
    says = r"the expander .* context of 256 tokens; .* thought of up to 100 \({}\)"
    with pytest.raises(ValueError, match=says.format(r"test\.limit")):
        evaluate_verb(load(EvaluateConfig, None, [f"--model={model}", "--test.limit=100", *both]))
    words = [f"--model={model}", "--question=C7 A4.", "--max_tokens=100", *both[:2]]
    with pytest.raises(ValueError, match=says.format("max_tokens")):
        sample_verb(load(SampleConfig, None, words))


def hawkeye(settings, model, out, *words):
    return settings(
        f"--out={out}",
        "--method.name=hawkeye",
        "--method.options.leak=mask",
        f"--expander.model={model}",
        "--expander.limit=6",
        "--rounds.limits=[24]",
        "--rounds.steps=2",
        "--problems.options.train=8",
        *words,
    )


def test_a_run_goes_on_where_thoughts_do_not_fit_into_the_expander(settings, model, tmp_path):
    """A prompt that says the thought often has more tokens than its 24."""
    said = "--expander.prompt={question}" + "{thought}" * 12
    prune(hawkeye(settings, model, tmp_path / "run", said))
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    shares = [line["prune/expander_too_long"] for line in lines if line["kind"] == "step"]
    assert len(shares) == 2 and all(0 < share <= 1 for share in shares)


def test_a_run_counts_words_of_thoughts_and_of_the_gold_solution(
    settings, model, tmp_path, monkeypatch
):
    """The released code's form; the labels of a sum stand for its solution."""
    told, words = [], second.thoughts_of

    def watched(engine, rollouts):
        told.append(words(engine, rollouts))
        return told[-1]

    monkeypatch.setattr(second, "thoughts_of", watched)
    options = "{solution: labels, unit: words, weight: 1}"
    prune(hawkeye(settings, model, tmp_path / "run", f"--method.options={options}"))
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if line["kind"] == "step"]
    # Labels are one word, so the target is int(.3) = 0. Asked for the expander, then to count.
    for line, thoughts in zip(steps, told[1::2], strict=True):
        penalty = np.mean([len(thought.split()) ** 2 for thought in thoughts])
        assert line["prune/reward_length"] == pytest.approx(-penalty, rel=1e-5) and penalty > 0


def test_a_run_with_an_expander_goes_on_exactly(settings, model, tmp_path, monkeypatch):
    expand, written = second.expand, []

    def watched(*args, **kwargs):
        expanded = expand(*args, **kwargs)
        written.append(int(expanded.rollouts.length_B.sum()))
        return expanded

    with monkeypatch.context() as patch:
        patch.setattr(second, "expand", watched)
        prune(hawkeye(settings, model, tmp_path / "whole"))
    given = hawkeye(settings, model, tmp_path / "died")
    at_visit(monkeypatch, second, "expand", 2, die)
    with pytest.raises(Died):
        prune(given)
    prune(given)
    whole, again = (left_behind(tmp_path / name) for name in ("whole", "died"))
    for part, value in whole.items():
        assert again[part] == value, part
    steps = [line for line in whole["metrics"] if line["kind"] == "step"]
    for line, tokens in zip(steps, written, strict=True):  # 4 problems with 8 rows each
        rows = 32 * line["completions/mean_length"]
        assert line["prune/generated_tokens"] == pytest.approx(rows + tokens)
