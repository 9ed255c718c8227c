"""Plans of a tiny model on slices that are not there, compiled by libtpu in processes of their own.

What the compiler says is held against what is counted, and against what the design promises: no
collective and no copy of the cache in the decode loop.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
import yaml

from pruner_jax import cli
from pruner_jax.pod import chips

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, which compiles for TPUs, is not installed (extras [test] and [plan])",
)
MODEL = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
MEASURED = {"temperature": 1.0, "top_p": 1.0}
SETTINGS = {
    "out": "never",
    "topology": "v5e:2x2",
    "prompt_tokens": 64,
    "method": {"name": "thinkprune", "options": {"samples": 2}},
    "rounds": {"limits": [192], "prompts": 4, "steps": 20},
    "mesh": {"data": 1, "fsdp": -1},
    "sample": {"rows": 8},
    "monitor": MEASURED,
    "test": MEASURED,
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A file of settings beside a folder that holds a config.json and nothing else."""
    root = tmp_path_factory.mktemp("plan")
    (root / "config.json").write_text(json.dumps(MODEL))
    (root / "plan.yaml").write_text(yaml.safe_dump({"model": str(root), **SETTINGS}))
    return str(root / "plan.yaml")


def printed(*words):
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def plan(settings):
    # Long rows, so that the compiler does not take its time over the thousands that would fit.
    long = ("--monitor.limit=1900", "--test.limit=1900")
    return printed("-m", "pruner_jax", "plan", settings, *long, "--search", "--json")


@pytest.fixture(scope="module")
def compiled(settings):
    script = str(pathlib.Path(__file__).parent / "on_a_slice.py")
    return printed(script, settings, "--sample.rows=512")[0]


@needs_libtpu
@pytest.mark.slow
def test_the_bytes_that_are_counted_are_those_of_the_compiled_programs(plan):
    found, _ = plan
    learner, sampler = found["learner"]["prune"], found["sampler"]["monitor"]
    counted = learner["counted_bytes"]
    state = counted["weights"] + counted["optimizer"] + counted["batch"]
    assert learner["update"]["arguments"] == pytest.approx(state, rel=0.05)
    assert learner["update"]["results"] < counted["weights"] / 10  # the state was donated
    counted, layers = sampler["counted_bytes"], MODEL["num_hidden_layers"]
    cache = counted["cache"] * layers / (layers + 1)  # one is there twice while rows move
    assert sampler["decode"]["arguments"] == pytest.approx(counted["weights"] + cache, rel=0.05)
    assert learner["true_flops"] > learner["update"]["flops"]  # of 2 layers XLA counts one
    moved = sampler["hand_over"]  # one layer and the table; beside it lies the learner
    assert moved["results"] == counted["weights"] and moved["temporaries"] < counted["weights"]
    assert found["fits"] and learner["bytes"] > learner["update"]["temporaries"] > 0


@needs_libtpu
@pytest.mark.slow
def test_samples_that_share_a_prompt_are_compiled_so_and_as_they_go_on(plan):
    found, said = plan
    sampler = found["sampler"]["train"]
    assert sampler["rows"] == sampler["share_a_prompt"] == 2  # 8 rows on 4 chips
    apart = found["sampler"]["monitor"]
    assert sampler["decode"]["arguments"] < apart["decode"]["arguments"]
    assert sampler["decode_later"]["bytes"] > 0 and "decode_later" not in apart
    assert "compiling sample train ..." in said and "sample test: as monitor" in said


@needs_libtpu
@pytest.mark.slow
def test_chips_talk_while_they_learn_and_not_while_they_sample(plan):
    found, said = plan
    places = {(c["kind"], c["where"]) for c in found["learner"]["prune"]["collectives"]}
    for way in ("forward", "backward"):
        assert ("all-gather", f"each micro-batch, each layer {way}") in places
    for name in ("train", "monitor", "test"):
        assert found["sampler"][name]["collectives"] == []
        assert found["sampler"][name]["cache_copies"] == 0
        assert found["sampler"][name]["step_bytes_ratio"] > 0
    assert "collectives: none" in said and "step bytes least: " in said
    assert "assumed: the learner reaches 40%" in said
    assert found["learner"]["prune"]["collective_bytes"] > 0 and ": 0.00 MiB" not in said
    assert "cache copies: 0" in said and "; a step takes " in said


@needs_libtpu
@pytest.mark.slow
def test_the_search_names_what_fits(plan):
    search = plan[0]["search"]
    assert search["smallest_slice"] == "v5e:1x1" and search["smaller_slices"] == {}
    rows = search["rows"]  # nobody knows how many problems the measured sets have
    assert rows["fits"] > 8 and rows["too_many"] == rows["fits"] + 8 and rows["untried"] == 0
    assert search["micro_tokens"]["fits"] >= 256


@needs_libtpu
@pytest.mark.slow
def test_the_table_of_chips_is_what_libtpu_says(compiled):
    for chip in chips.CHIPS:
        for name in chip.slices():
            assert compiled["devices"][name] == chips.size(name) * chip.devices
        assert compiled["memory"][chip.name] == pytest.approx(chip.memory / chips.GIB, abs=0.01)
    assert compiled["backend"] == "cpu"


@needs_libtpu
@pytest.mark.slow
def test_a_copied_cache_would_be_seen(compiled):
    assert compiled["turned_over"] > 0
    assert compiled["monitor"]["counted_bytes"]["cache"] > 200 << 20
    assert compiled["monitor"]["cache_copies"] == 0
    assert compiled["turned_logits"] == 0


@needs_libtpu
@pytest.mark.slow
def test_prompts_that_samples_share_are_neither_copied_nor_laid_out_anew(compiled):
    alone, shared = compiled["grouped"]
    assert shared["cache_copies"] == 0 and shared["collectives"] == []
    # Not before the loop either, where all layers would be there at once.
    keys = 512 // 8 * MODEL["num_key_value_heads"] * 1024 * 128 * 2  # shared in one layer, bytes
    assert shared["temporaries"] < alone["temporaries"] + keys
    assert shared["arguments"] < 0.7 * alone["arguments"]
    assert shared["step_bytes"] < 0.7 * alone["step_bytes"]


@needs_libtpu
@pytest.mark.slow
def test_chips_that_share_a_model_share_its_cache(compiled):
    shared = compiled["shared"]
    kept = shared["counted_bytes"]["weights"] + shared["counted_bytes"]["cache"]  # one layer twice
    assert shared["decode"]["arguments"] < 1.1 * kept
    assert shared["decode"]["results"] < shared["counted_bytes"]["cache"] / 10  # it is donated
    assert shared["cache_copies"] == 0


def refused(capsys, *words):
    assert cli.main(["plan", *words]) == 1
    return capsys.readouterr().err


def test_a_wrong_slice_or_model_is_refused(settings, tmp_path, capsys, monkeypatch):
    assert "v5e:2x2, v5e:2x4" in refused(capsys, settings, "--topology=v5e:9x9")

    def offline(*given, **named):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    said = refused(capsys, settings, "--model=owner/name")
    assert "the hub did not give it: no network" in said and "config.json" in said
    said = refused(capsys, settings, f"--model={tmp_path}")
    assert "config.json: missing" in said
    said = refused(capsys, settings, "--rounds.limits=[2000]")
    assert "prompt_tokens is 64 (512 if it is not said) and the train limit 2000, more " in said


@needs_libtpu
def test_a_mesh_that_does_not_divide_is_refused_and_a_dry_run_compiles_nothing(settings):
    words = ("-m", "pruner_jax", "plan", settings, "--json")
    done = subprocess.run(
        [sys.executable, *words, "--mesh.fsdp=3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "mesh: fsdp = 3 does not divide the 4 devices" in done.stderr
    found, _ = printed(*words, "--dry-run")
    assert found["fits"] and "update" not in found["learner"]["prune"]
    assert found["devices"] == {"data": 1, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--prompt_tokens=1", "prompt_tokens is 1; allowed: 2 or more"),
        ("--mean_tokens=0", "mean_tokens is 0; allowed: 1 or more"),
        ("--learn_flops=1.5", "learn_flops is 1.5; allowed: above 0, at most 1"),
        ("--read_bandwidth=0", "read_bandwidth is 0.0; allowed: above 0, at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, capsys, word, said):
    assert cli.main(["plan", settings, word]) == 2
    assert said in capsys.readouterr().err
