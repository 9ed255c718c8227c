"""What a run holds on its devices, and that it is refused where that is too much."""

import dataclasses
import pathlib
import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from pruner_jax.learn import pack
from pruner_jax.learn.optimizer import make_optimizer
from pruner_jax.learn.options import LearnOptions, OptimizerOptions
from pruner_jax.learn.rows import rows_of_examples
from pruner_jax.learn.step import LearnState, make_update
from pruner_jax.mesh import make_mesh
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy import hf, weights
from pruner_jax.policy.config import ModelConfig, RopeConfig
from pruner_jax.run import session
from pruner_jax.run.engine import Engine
from pruner_jax.run.memory import (
    Stage,
    check_memory,
    on_a_device,
    sampler_bytes,
    update_bytes,
)
from pruner_jax.run.prune import prune
from pruner_jax.sample.options import SampleOptions
from pruner_jax.text import TextOptions

GIB = 1 << 30


def test_what_does_not_fit_is_refused_with_what_would():
    stages = {
        "learn": Stage(30 * GIB),
        "test": Stage(10 * GIB, cache=64 * GIB, rows=64, limit="test.limit"),
    }
    assert check_memory(stages, None) == "memory on each device: learn 30.0 GiB, test 74.0 GiB"
    assert check_memory(stages, 74 * GIB).endswith("test 74.0 GiB; it gives 74.0 GiB")
    says = r"'test' holds 74\.0 GiB .*sample\.rows to 50 \(64 share .*, or lower test\.limit$"
    with pytest.raises(ValueError, match=says):
        check_memory(stages, 61 * GIB - 1)
    with pytest.raises(ValueError, match=r"'learn' holds 30\.0 GiB .*mesh\.fsdp$"):
        check_memory(stages, 29 * GIB)
    with pytest.raises(
        ValueError, match=r"'test' .*mesh\.fsdp, or all with mesh\.tensor"
    ):  # not even one row
        check_memory({"test": stages["test"]}, 11 * GIB - 1)


def test_a_device_has_its_part_of_what_is_split():
    mesh = AbstractMesh((2, 4), ("data", "fsdp"))
    split, whole = (NamedSharding(mesh, PartitionSpec(name)) for name in ("fsdp", None))
    shape = (8, 3)
    assert on_a_device(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)) == 2 * 3 * 4
    assert on_a_device([jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole)] * 2) == 96


def test_the_cache_at_its_largest():
    """64 rows of R1-Distill-Qwen-1.5B: 16,384 tokens behind a prompt of 300 take 18,944 slots, each
    of 2 heads x 128 x (keys and values) x 2 bytes in 28 layers, and in one that moves."""
    engine = Engine(
        config=types.SimpleNamespace(layers=28, kv_heads=2, head_width=128),
        tokenizer=None,
        end_ids=(0,),
        end_id=0,
        close_ids=(),
        open_ids=(),
        text=TextOptions(),
        sampling=SampleOptions(rows=64, slot_multiple=128, dtype="bfloat16"),
        verifier=None,
        seed=0,
    )
    assert engine.cache_bytes(16384, 300, engine.seats(1000)) == 64 * 18944 * 29 * 1024


@pytest.mark.parametrize(("dtype", "most"), [("float32", 2.6), ("bfloat16", 3.2)])
def test_an_update_holds_what_is_counted(dtype, most):
    """By what the compiler plans; activations of 16 tokens are next to nothing. (One
    weight's gradient exists twice while it is turned round.)"""
    config = ModelConfig(
        model_type="qwen2", vocab_size=512, width=128, layers=12, heads=4, kv_heads=2,
        head_width=32, mlp_width=512, context=64, rope=RopeConfig(1e4), norm_eps=1e-6, tied=True,
    )  # fmt: skip
    options = LearnOptions(dtype=dtype, row_tokens=16, micro_tokens=16, logp_chunk=8)
    spec, mesh = LossSpec(kind="ce"), make_mesh(1, 1, 1, jax.devices()[:1])
    optimizer = make_optimizer(OptimizerOptions(), config)
    update = make_update(config, spec, options, optimizer, mesh)
    rows = rows_of_examples([([1, 2, 3], [4, 5, 6], 1.0)] * 4)
    batch, _ = pack.pack(rows, spec, pack.plan(rows, spec, options.resolve("cpu")))
    params = weights.abstract(config, jnp.float32)
    state = LearnState(params, jax.eval_shape(optimizer.init, params))
    planned = update.lower(state, batch, 1e-3).compile().memory_analysis()
    count = sum(x.size for x in jax.tree.leaves(params))
    counted = update_bytes(count, dtype)
    assert counted == 8 * count
    assert counted < planned.temp_size_in_bytes < most * 4 * count
    assert planned.argument_size_in_bytes == pytest.approx(3 * 4 * count, rel=1e-2)


def test_rows_that_do_not_fill_the_seats_are_counted_as_they_are(settings, tmp_path):
    words = [f"--out={tmp_path / 'run'}", "--dry_run=true", "--sample.rows=256"]
    sets = ("--test.problems=3", "--test.samples=2", "--monitor.problems=2", "--monitor.samples=2")
    few = prune(settings(*words, *sets, "--rounds.prompts=2"))["cache_bytes"]
    words[-1] = "--sample.rows=1"
    one = prune(settings(*words, *sets, "--rounds.prompts=2"))["cache_bytes"]
    assert {name: few[name] // one[name] for name in few} == {
        "train": 8, "monitor": 4, "test": 6,
    }  # fmt: skip


def test_the_sampler_lies_split_over_tensor(model):
    """Half of every matrix and of the cache where two devices share a replica."""
    config = dataclasses.replace(hf.read_config(model), kv_heads=2)
    names, found = ("data", "fsdp", "tensor"), {}
    for tensor in (1, 2):
        mesh = AbstractMesh((4 // tensor, 1, tensor), names)
        engine = Engine(
            config=config,
            tokenizer=None,
            end_ids=(0,),
            end_id=0,
            close_ids=(),
            open_ids=(),
            text=TextOptions(),
            sampling=SampleOptions(rows=8, dtype="float32"),
            verifier=None,
            seed=0,
            mesh=mesh,
        )
        found[tensor] = sampler_bytes(engine, mesh), engine.cache_bytes(64, 10, 8)
    (whole, cache), (half, half_cache) = found[1], found[2]
    norms = 4 * config.width * (2 * config.layers + 1)  # these are whole everywhere
    assert half == (whole - norms) // 2 + norms and half_cache * 2 == cache


def test_a_dry_run_tells_what_each_stage_holds(settings, tmp_path, monkeypatch):
    words = (f"--out={tmp_path / 'run'}", "--dry_run=true", "--test.limit=90")
    found = prune(settings(*words))
    one = 4 * found["parameters"]  # the sampler's on a CPU are in float32 too
    stages, cache = found["stage_bytes"], found["cache_bytes"]
    with_reference = found["learner_state_bytes"] + one
    assert found["reference_bytes"] == one and found["device_bytes"] is None
    assert stages["learn"] == with_reference + 2 * one  # gradients: their sum and a micro-batch's
    assert stages["train"] == with_reference + one + cache["train"]
    assert stages["monitor"] == with_reference + one + cache["monitor"]
    assert stages["test"] == 2 * one + cache["test"]  # the learner is gone
    assert 0 < cache["train"] <= cache["monitor"] < cache["test"]
    monkeypatch.setattr(session, "device_bytes", lambda mesh: stages["test"] - 1)
    with pytest.raises(ValueError, match=r"'test' .*sample\.rows to 15 \(16 share"):
        prune(settings(*words))


def test_a_dry_run_loads_no_weights_but_looks_at_their_files(
    settings, model, tmp_path, monkeypatch
):
    (tmp_path / "model").mkdir()
    for path in model.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(hf, "read_weights", None)
    expander = pathlib.Path(__file__).parents[2] / "configs" / "tiny_expander"
    words = (
        f"--out={tmp_path / 'run'}",
        f"--model={tmp_path / 'model'}",
        f"--expander.model={expander}",
        "--expander.limit=16",
        "--dry_run=true",
    )
    found = prune(settings(*words))
    one = 4 * found["parameters"]
    held = 2 * one + found["expander_bytes"] + found["cache_bytes"]["test"]
    assert found["stage_bytes"]["test"] == held
    monkeypatch.setattr(session, "device_bytes", lambda mesh: held - 1)
    with pytest.raises(ValueError, match=r"^memory: the stage"):  # as soon in a run
        prune(settings(*words, "--dry_run=false"))
    monkeypatch.undo()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        prune(settings(*words))
