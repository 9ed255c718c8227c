"""What a plan counts and how long it says it takes, by hand; nothing is compiled."""

import dataclasses
import json

import jax
import pytest

from pruner_jax import config, methods
from pruner_jax.learn.optimizer import make_optimizer
from pruner_jax.mesh import make_mesh
from pruner_jax.pod import chips, programs, roofline
from pruner_jax.pod.compiled import Compiled
from pruner_jax.policy.config import from_hf
from pruner_jax.report.words import brief
from pruner_jax.run import estimate, finding, telling, traffic
from pruner_jax.run.finding import Slice, learning, sampling, shared_by
from pruner_jax.run.found import Finding

MODEL = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
# A second: 4e11 FLOPs of learning, 7e11 bytes read, 1e11 passed one way.
CHIP = dataclasses.replace(chips.CHIPS[0], flops=1e12, bandwidth=1e12, links=2e11)
SAMPLER = Finding({}, 0, {"rows": 8, "slots": 384}, {}, flops=1e6, least=7 * 10**9)
LEARNER = Finding({}, 0, {"updates": 2, "micro_batches": 3}, {})


def slice_of(*words):
    words = [
        "--model=m",
        "--out=o",
        "--learn.attention=xla",
        "--rounds.limits=[100]",
        "--rounds.prompts=4",
        *words,
    ]
    settings = config.load(
        config.PlanConfig, None, [*words, "--prompt_tokens=20", "--dry_run=true"]
    )
    learn, sample = programs.for_tpu(settings.learn, settings.sample)
    settings = dataclasses.replace(settings, learn=learn, sample=sample)
    method = methods.build(methods.MethodOptions.of(settings.method))
    model = from_hf(MODEL)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    return Slice(settings, CHIP, mesh, model, method, make_optimizer(settings.optimizer, model))


@pytest.fixture
def collected(monkeypatch):
    """The estimate of the first phase of a method; a row to learn takes 8e9 FLOPs, a prompt 2e9."""
    monkeypatch.setattr(roofline, "learn_flops", lambda *sizes: 8e9)
    monkeypatch.setattr(roofline, "prefill_flops", lambda *sizes: 2e9)

    def of(*words, learner=LEARNER):
        here = slice_of(*words)
        samplers = dict.fromkeys(here.writings, SAMPLER)
        return estimate.collection(here, here.method.phases[0], learner, samplers, 100)

    return of


def test_a_decode_step_reads_what_was_compiled_or_the_least():
    here = slice_of("--method.name=grpo")
    assert estimate.decode_seconds(here, SAMPLER) == pytest.approx(0.01)
    moved = dataclasses.replace(SAMPLER, traffic={"step_bytes": 14 * 10**9})
    assert estimate.decode_seconds(here, moved) == pytest.approx(0.02)
    passed = {"step_bytes": "not available", "collective_bytes": 5 * 10**8}
    shared = dataclasses.replace(SAMPLER, traffic=passed)
    assert estimate.decode_seconds(here, shared) == pytest.approx(0.01 + 0.005)
    busy = dataclasses.replace(SAMPLER, flops=4e11)
    assert estimate.decode_seconds(here, busy) == pytest.approx(1.0)


def test_bytes_between_chips_are_those_of_all_rounds():
    found = [
        {"kind": "all-gather", "where": "each update", "bytes": 5, "count": 1},
        {"kind": "all-reduce", "where": "each micro-batch, each layer backward", "bytes": 7},
        {
            "kind": "all-gather",
            "where": "each micro-batch, each chunk of logits forward",
            "bytes": 2,
        },
    ]
    rounds = {"micro-batch": 3, "layer": 4, "chunk": 2}
    passed = traffic._passed(found, rounds)
    assert passed == 5 + 3 * 4 * 2 * 7 + 3 * 2 * 2
    said = traffic.said({"collectives": found[:1], "collective_bytes": passed}, 1e6)
    assert said[0] == "collectives: small ones only" and "0.18 ms over the links" in said[1]


def test_draws_in_place_of_others_are_not_learnt_from(collected):
    """4 problems of 8 samples: 32 rows of 100 tokens, 800 tokens a second."""
    found = collected("--method.name=harmonic", "--method.options.samples=8")
    assert (found["rows"], found["kept"], found["draws"]) == (32, 32, 4)
    assert found["write_seconds"] == pytest.approx(4 * 2e9 / 4e11 + 32 * 100 / 800)
    assert found["learn_seconds"] == pytest.approx(32 * 8e9 / 4e11)
    assert found["score_seconds"] == 0 and found["link_seconds"] == 0


def test_a_reference_is_a_forward_pass_more(collected):
    words = ("--method.name=thinkprune", "--method.options={samples: 8, kl: 0.001}")
    assert collected(*words)["score_seconds"] == pytest.approx(32 * 8e9 / 4e11 / 3)


def test_what_selection_leaves_is_learnt_from_and_what_a_draw_once_takes_is_all_problems(collected):
    words = ("--method.name=o1_pruner", "--problems.train_limit=100")
    found = collected(*words)
    assert (found["rows"], found["kept"]) == (1600, 200)
    assert found["learn_seconds"] == pytest.approx(200 * 8e9 / 4e11)
    assert found["score_seconds"] == pytest.approx(200 * 8e9 / 4e11 / 3)  # at another temperature
    slow = dataclasses.replace(LEARNER, traffic={"collective_bytes": 4 * 10**11})
    found = collected(*words, learner=slow)
    assert found["learn_seconds"] == found["link_seconds"] == pytest.approx(2 * 4.0)
    assert collected("--method.name=o1_pruner")["rows"] is None


@pytest.mark.parametrize(
    ("name", "kept"), [("dpo_shortest", 4), ("sft_shortest", 2), ("rational_metareasoning", 1)]
)
def test_how_many_rows_of_a_problem_are_kept_at_most(collected, name, kept):
    found = collected(f"--method.name={name}", "--problems.train_limit=512")
    assert found["kept"] == 512 * kept < found["rows"]


def test_of_a_set_that_nobody_has_read_the_times_are_not_known():
    here = slice_of("--method.name=o1_pruner")
    learners = {"prune": learning(here, here.training[0])}
    samplers = {name: sampling(here, name) for name in here.writings}
    assert samplers["train"].sizes["rows"] == here.settings.sample.rows  # every seat
    assert learners["prune"].sizes["updates"] == 1  # of 32 rows
    found = estimate.estimate(here, learners, samplers)
    assert "number of problems not known (say problems.train_limit)" in "\n".join(
        telling.estimated(found)
    )
    known = slice_of("--method.name=o1_pruner", "--problems.train_limit=64")
    assert learning(known, known.training[0]).sizes["updates"] == 64 * 2 // 32


def test_the_sampler_gets_its_weights_beside_the_learner(monkeypatch):
    here, GIB = slice_of("--method.name=grpo"), 1 << 30
    made = [Compiled(1.0, None, 9 * GIB, GIB, 2 * GIB), Compiled(1.0, None, GIB, 3 * GIB, 4 * GIB)]
    for weights, most in ((6 * GIB, 8 * GIB), (4 * GIB, 7 * GIB)):  # after the last layer; the rest
        compiled = iter(made)
        monkeypatch.setattr(finding, "compile_program", lambda one, left=compiled: next(left))
        assert finding._handed_over(here, weights).bytes == most


def test_a_phase_samples_in_its_own_way_and_a_teacher_is_counted(tmp_path):
    here = slice_of("--method.name=o1_pruner")
    assert here.writings["train"].sampling == {"temperature": 0.5, "top_p": 0.8}
    assert here.writings["monitor"].sampling["temperature"] == 0.6
    teacher = MODEL | {"num_hidden_layers": 8}
    (tmp_path / "config.json").write_text(json.dumps(teacher))
    here = slice_of("--method.name=pad", f"--teacher.model={tmp_path}")
    assert list(here.writings) == ["teacher", "monitor", "test"]
    found, own = sampling(here, "teacher").counted, sampling(here, "monitor").counted
    assert found["weights"] > 2 * own["weights"] and found["cache"] == 3 * own["cache"]  # 9 : 3
    read = slice_of("--method.name=pad", "--teacher.file=t.jsonl")
    assert list(read.writings) == ["monitor", "test"]


def test_what_is_not_planned_is_said():
    here = slice_of("--method.name=hawkeye", "--expander.model=second")
    said = "; ".join(here.not_planned())
    assert "the expander's answers (second)" in said
    here = slice_of("--method.name=grpo", "--monitor.thinking_budget=50")
    assert here.not_planned() == ["the end of thoughts in the monitor set (a force hook)"]


def test_prompts_are_shared_where_the_run_would_share_them():
    words = ("--method={name: grpo, options: {samples: 8}}", "--sample.rows=32")
    here = slice_of(*words)
    assert shared_by(here, here.writings["train"]) == 8  # 32 rows, all at once
    assert sampling(here, "train").sizes == {"rows": 32, "slots": 256, "share_a_prompt": 8}
    for word in ("--sample.share_prompts=false", "--sample.rows=16"):
        here = slice_of(*words, word)
        assert shared_by(here, here.writings["train"]) == 1


# -- in words --------------------------------------------------------------------------------------

GIB = 1 << 30


def test_a_program_that_was_there_before_is_named_only():
    here, done = slice_of("--method.name=grpo"), Compiled(1.0, arguments=GIB)
    first = dataclasses.replace(
        SAMPLER, counted={"held": GIB, "cache": GIB}, beside=GIB, compiled={"decode": done}
    )
    other = dataclasses.replace(first, counted={"held": 2 * GIB, "cache": GIB}, beside=2 * GIB)
    assert telling.told("sample test", other, here, {"train": first}).splitlines() == [
        "sample test: as train",
        "  held 2.0 GiB",
        "  3.0 GiB of 15.8 GiB: fits",
    ]
    assert "decode: arguments 1.0 GiB" in telling.told("sample test", other, here, {})
    teacher = dataclasses.replace(first, counted={"held": GIB, "cache": 2 * GIB})
    assert "cache 2.0 GiB" in telling.told("sample teacher", teacher, here, {"train": first})


def test_a_step_takes_what_comes_at_every_step():
    """A table that is made once, of problems that nobody has counted, is no part of it."""

    def of(*words):
        here = slice_of(*words)
        learners = {phase.name: LEARNER for phase in here.training}
        found = estimate.estimate(here, learners, dict.fromkeys(here.writings, SAMPLER))
        return found["step_seconds"], found["collections"]

    step, collections = of("--method.name=hawkeye")
    assert [(one["every"], one["rows"] is None) for one in collections.values()] == [
        ("once", True),
        ("step", False),
    ]
    assert step == estimate.seconds([collections["prune"]]) > 0
    assert of("--method.name=star")[0] is None


def test_the_last_line_says_whether_it_fits_and_what_a_step_takes():
    times = {"write_seconds": 60.0, "learn_seconds": 30.0, "score_seconds": 0.0}
    p = {"rows": 1, "draws": 1, "every": "step", **times}
    found = {"estimate": {"collections": {"p": p}}}
    done = {"update": Compiled(1.0)}
    findings = {"learn p": Finding({"weights": 3 * GIB}, 0, {}, done)}
    findings["sample train"] = Finding({"cache": 4 * GIB}, 0, {}, done)
    assert telling.closing(found, findings, 5 * GIB) == (
        "fits: sample train is tightest, 1.0 GiB are left; a step takes 1 min 30 s "
        "(1 min 00 s to write + 30 s to learn)"
    )
    table = p | {"every": "once", "learn_seconds": 0.0, "draws": 4}
    more = {"estimate": {"collections": {"p": p, "table": table}}}
    assert telling.closing(more, findings, 5 * GIB).endswith(
        "a step takes 1 min 30 s (1 min 00 s to write + 30 s to learn), table (once) takes "
        "1 min 00 s (to write one draw of up to 4)"
    )
    more["estimate"]["collections"]["table"] = table | dict.fromkeys(("rows", *times))
    assert telling.closing(more, findings, 5 * GIB).endswith(
        " to learn), table (once) takes as long as the number of problems makes it"
    )
    said = telling.closing(found, findings, 3 * GIB)
    assert said == "does not fit: sample train takes 4.0 GiB, 1.0 GiB more than there are"
    findings["learn p"] = Finding({}, 0, {}, {"update": Compiled(1.0, "too large")})
    said = telling.closing(found, findings, 5 * GIB)
    assert said == "does not fit: the compiler refuses learn p"


def test_short_times_are_no_zeros():
    assert [brief(x) for x in (0.00094, 0.034, 0.1, 90)] == [
        "0.94 ms",
        "34 ms",
        "0.1 s",
        "1 min 30 s",
    ]
