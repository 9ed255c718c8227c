"""Hugging Face folders: written again they are the same; what is wrong is said in one line."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pruner_jax.mesh import DECODE_RULES, make_mesh
from pruner_jax.policy import export, hf
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.handle import Policy, load, logits, save
from pruner_jax.policy.tensorfile import read_tensors
from pruner_jax.policy.weights import unstack, weight_shardings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a tokenizer, a chat template and a generation config."""
    config, params = tiny.model("qwen2")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(61)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2")
    tokenizer.chat_template = "{{ messages[0].content }}"
    path = tmp_path / "model"
    generation = {"eos_token_id": [2, 3], "temperature": 0.6}
    return save(Policy(config, params, tokenizer, generation), path)


def trees_equal(left, right) -> bool:
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and bool((a == b).all()), left, right)
    return all(jax.tree.leaves(same))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# -- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_family_comes_back_as_it_went(name, tmp_path):
    config, params = tiny.model(name)
    hf_names = {hf_name for hf_name, *_ in export.tensors(config)}
    path = save(Policy(config, params, None), tmp_path / "new" / "model")
    again = load(path)
    assert again.config == config and trees_equal(again.params, params)
    with safetensors.safe_open(path / "model.safetensors", "np") as file:  # the format's own reader
        assert set(file.keys()) == hf_names and file.metadata() == {"format": "pt"}
        for hf_name in hf_names:
            wanted = tiny.numbers(hf_name, tuple(file.get_slice(hf_name).get_shape()))
            assert np.array_equal(file.get_tensor(hf_name), wanted)


def test_a_folder_written_again_is_the_same_to_the_byte(folder, tmp_path):
    again = save(load(folder, dtype="auto"), tmp_path / "again")
    assert contents(again) == contents(folder)


def test_bfloat16_files_survive_float32_and_auto(folder, tmp_path):
    half = save(load(folder), tmp_path / "half", dtype="bfloat16")
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == "bfloat16"
    auto, wide = load(half, dtype="auto"), load(half, dtype="float32")
    assert auto.params["embed"].dtype == jnp.bfloat16 and wide.params["embed"].dtype == jnp.float32
    back = [save(auto, tmp_path / "auto"), save(wide, tmp_path / "wide", dtype="bfloat16")]
    for other in back:
        assert contents(other) == contents(half)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_samplers_list_of_layers_is_read_as_it_would_be_cast(name, tmp_path):
    config, params = tiny.model(name)
    path = save(Policy(config, params, None), tmp_path / "model")
    places = weight_shardings(config, make_mesh(), DECODE_RULES, stacked=False)
    for shardings in (None, places):
        found = hf.read_weights(path, config, "bfloat16", shardings, stacked=False)
        assert trees_equal(found, unstack(params, jnp.bfloat16))


def test_sharded_writing_and_reading(folder, tmp_path):
    policy = load(folder)
    path = export.write_folder(
        tmp_path / "many", policy.config, policy.params, source=folder, shard_bytes=20_000
    )
    index = json.loads((path / hf.INDEX).read_text())
    files = {file.name for file in path.glob("*.safetensors")}
    assert len(files) > 2 and files == set(index["weight_map"].values())
    sizes = [sum(t.nbytes for t in read_tensors(path / name).values()) for name in files]
    assert max(sizes) <= 20_000 and index["metadata"]["total_size"] == sum(sizes)
    assert trees_equal(load(path).params, policy.params)


def test_tokenizer_generation_and_template_travel(folder, tmp_path):
    policy = load(folder)
    assert policy.generation == {"eos_token_id": [2, 3], "temperature": 0.6}
    assert policy.tokenizer.chat_template == "{{ messages[0].content }}"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("tool")
    (folder / "merges.txt").write_bytes(b"\x00odd bytes\xff")
    again = save(policy, tmp_path / "again")
    assert (again / "merges.txt").read_bytes() == b"\x00odd bytes\xff"
    assert (again / "additional_chat_templates" / "tool.jinja").read_text() == "tool"
    assert load(again).tokenizer.get_vocab() == policy.tokenizer.get_vocab()


def test_the_new_spelling_is_written_for_transformers_4_too(tmp_path):
    config, params = tiny.model("llama3_new")
    raw = json.loads(
        (save(Policy(config, params, None), tmp_path / "m") / "config.json").read_text()
    )
    assert raw["rope_theta"] == 10000.0 and raw["torch_dtype"] == "float32"
    assert raw["rope_scaling"]["rope_type"] == "llama3" and "rope_theta" not in raw["rope_scaling"]
    assert from_hf(raw) == config  # both spellings together still agree


def test_old_folders_may_carry_what_follows_from_the_config(tmp_path):
    config, params = tiny.model("qwen2")
    path = save(Policy(config, params, None), tmp_path / "m")
    tensors = {name: np.array(view) for name, view in read_tensors(path / hf.SINGLE).items()}
    extra = {
        "lm_head.weight": tensors["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
    }
    safetensors.numpy.save_file(tensors | extra, path / hf.SINGLE)
    assert trees_equal(load(path).params, params)
    extra["lm_head.weight"] = extra["lm_head.weight"] + 1
    safetensors.numpy.save_file(tensors | extra, path / hf.SINGLE)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs .* tie_word_embeddings"):
        load(path)


def test_reading_holds_the_model_once(tmp_path):
    """One weight at a time: the host never holds a second copy of all of them."""
    import tracemalloc

    raw = tiny.CONFIGS["qwen2"] | {"num_hidden_layers": 8, "vocab_size": 4000, "hidden_size": 256}
    config = from_hf(raw)
    path = save(Policy(config, tiny.params(config), None), tmp_path / "m")
    largest = max(view.nbytes for view in read_tensors(path / hf.SINGLE).values())
    tracemalloc.start()
    params = hf.read_weights(path, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert peak < total + largest + 1e6


# -- what is wrong with a folder -------------------------------------------------------------------


def test_only_a_hub_id_goes_to_the_hub(folder, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        assert revision is None
        asked.append(name)
        if name != "owner/model":
            raise OSError("no network")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load(folder).folder == load("owner/model").folder == folder
    assert asked == ["owner/model"]
    with pytest.raises(ValueError, match=r"other/model: no such folder here, .* no network"):
        load("other/model")
    with pytest.raises(ValueError, match=r"nothing: no such folder, and no hub id"):
        load(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"file is a file; allowed: a folder"):
        load(tmp_path / "file")
    assert asked == ["owner/model", "other/model"]


def test_a_hub_id_may_name_its_revision(folder, monkeypatch):
    cached = folder.parent / "models--owner--model" / "snapshots" / "8b1f0c3"
    cached.parent.mkdir(parents=True)
    folder.rename(cached)
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert hf.commit_of(load("owner/model@refs/pr/1").folder) == "8b1f0c3"
    assert asked == [("owner/model", "refs/pr/1")]
    assert hf.commit_of(folder) is None
    with pytest.raises(ValueError, match=r"owner/model@: .*no hub id of the form .*@revision"):
        load("owner/model@")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json: missing"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not JSON"),
        (lambda f: (f / "model.safetensors").unlink(), r"no weights; allowed: model\.safetensors"),
        (lambda f: change(f, num_hidden_layers=4), r"12 missing tensor\(s\).*layers\.3"),
        (lambda f: change(f, num_hidden_layers=2), r"12 unexpected tensor\(s\).*layers\.2"),
        (
            lambda f: change(f, intermediate_size=48),
            r"gate_proj.* has shape \(56, 32\).*\(48, 32\)",
        ),
        (lambda f: change(f, tie_word_embeddings=False), r"missing tensor\(s\).*lm_head\.weight"),
        (lambda f: change(f, vocab_size=60), r"tokenizer has the id 60.* only 60 rows"),
        (lambda f: change(f, architectures=["Qwen2MoeForCausalLM"]), "Qwen2MoeForCausalLM"),
        (lambda f: truncate(f, 1), r"model\.safetensors: truncated; its header promises \d+ bytes"),
        (lambda f: truncate(f, 10**9), r"truncated or not safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"??"), "not JSON"),
        (
            lambda f: header(f, {"w": {"dtype": "F32", "shape": [1]}}),
            r"tensor w needs .*data_offsets",
        ),
        (lambda f: header(f, ["w"]), r"model\.safetensors: not safetensors"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json: .* broken"),
        (lambda f: index(f, "model-00001-of-00002.safetensors"), "missing; .*index.json lists it"),
    ],
)
def test_each_error_is_one_clear_message(folder, harm, message):
    harm(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def change(folder: Path, **fields) -> None:
    raw = json.loads((folder / "config.json").read_text())
    tiny.write_json(folder / "config.json", raw | fields)


def truncate(folder: Path, less: int) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: max(len(data) - less, 4)])


def header(folder: Path, value: object) -> None:
    text = json.dumps(value).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


def index(folder: Path, name: str) -> None:
    tiny.write_json(folder / hf.INDEX, {"weight_map": {"model.norm.weight": name}})


def test_a_dtype_that_is_not_read(folder):
    with pytest.raises(
        ValueError, match="dtype = 'int8'; allowed: auto, float32, bfloat16, float16"
    ):
        load(folder, dtype="int8")
    half = {"model.norm.weight": np.ones(3, np.int8)}
    safetensors.numpy.save_file(half, folder / hf.SINGLE)
    with pytest.raises(ValueError, match=r"model\.norm\.weight has dtype I8; allowed: F32"):
        load(folder)


def test_tokens_outside_the_vocabulary_are_refused(folder):
    policy = load(folder)
    with pytest.raises(ValueError, match="ids from 3 to 61; allowed: 0 to 60"):
        logits(policy, [[3, 61]])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        logits(policy, [3, 4])


# -- writing is all or nothing ---------------------------------------------------------------------


def test_a_model_folder_is_replaced_and_nothing_else_is(folder, tmp_path):
    policy = load(folder)
    save(policy, folder)  # onto its own source
    assert trees_equal(load(folder).params, policy.params)
    (tmp_path / "empty").mkdir()
    save(policy, tmp_path / "empty")
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.tex"):
        save(policy, folder)
    assert (folder / "thesis.tex").exists() and load(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "empty"}


def test_what_is_written_in_fewer_bytes_comes_from_the_devices_in_fewer(folder):
    policy = load(folder)
    for kind in ("float32", "bfloat16", "float16"):
        pieces = export._gathered(policy.config, policy.params, jnp.dtype(kind))
        assert {piece.dtype for piece in pieces} == {jnp.dtype(kind)}
    half = load(folder, "bfloat16")
    assert {x.dtype for x in export._gathered(half.config, half.params, np.dtype("f4"))} == {
        jnp.dtype("bfloat16")
    }


def test_a_tree_that_is_not_the_config_s_is_refused(folder, tmp_path):
    policy = load(folder)
    params = policy.params | {"final_norm": jnp.ones(3)}
    with pytest.raises(ValueError, match="shapes of their config"):
        export.write_folder(tmp_path / "new", policy.config, params)
    assert not (tmp_path / "new").exists()


def test_too_little_room_is_seen_before_writing(folder, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match=r"not written and nothing left behind: .* need 0\.00 GB .*new'"
    ) as caught:
        save(load(folder), tmp_path / "new")
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_fills_up_while_writing_leaves_nothing(folder, tmp_path):
    """A real failure in the middle of the weights: the process may not write files of that size."""
    code = f"""
import resource, signal
from pruner_jax.policy.handle import load, save
policy = load({str(folder)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
save(policy, {str(tmp_path / "new")!r})
"""
    assert (folder / hf.SINGLE).stat().st_size > 50_000 and resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "not written and nothing left behind: File too large" in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_the_shards_that_devices_hold_are_read(tmp_path):
    """On eight devices, in a process of its own: each shard once, and nothing else."""
    config = from_hf(tiny.CONFIGS["qwen3"] | {"vocab_size": 64, "num_key_value_heads": 4})
    path = save(Policy(config, tiny.params(config), None), tmp_path / "model", dtype="bfloat16")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("slices_read.py"), path],
        capture_output=True,
        text=True,
        env=os.environ | flags,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "only what is held is read"
