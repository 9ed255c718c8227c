"""Contradictory options are refused by name; automatic ones are resolved."""

import pytest

from pruner_jax.learn.options import LearnOptions, MeshOptions, OptimizerOptions
from pruner_jax.objective.loss_spec import LossSpec


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (MeshOptions, {"fsdp": 0}, r"mesh\.fsdp is 0"),
        (MeshOptions, {"data": -1, "tensor": -1}, "only one"),
        (OptimizerOptions, {"schedule": "step"}, r"optimizer\.schedule is 'step'; allowed: const"),
        (OptimizerOptions, {"learning_rate": 0}, r"optimizer\.learning_rate is 0"),
        (OptimizerOptions, {"beta2": 1.0}, r"optimizer\.beta2 is 1\.0"),
        (OptimizerOptions, {"grad_clip": 0.0}, r"optimizer\.grad_clip"),
        (OptimizerOptions, {"warmup_steps": 5, "warmup_fraction": 0.1}, "set one of them"),
        (LearnOptions, {"row_tokens": 0}, r"learn\.row_tokens is 0"),
        (LearnOptions, {"remat": "some"}, r"learn\.remat is 'some'; allowed: auto, none"),
        (LearnOptions, {"attention": "cudnn"}, r"learn\.attention is 'cudnn'; allowed: auto, xla"),
        (LearnOptions, {"unrolled_layers": -1}, r"learn\.unrolled_layers is -1"),
        (LossSpec, {"kind": "dpo"}, r"loss\.kind is 'dpo'; allowed: pg, ce, pairs"),
        (LossSpec, {"clip_low": 1.5}, r"loss\.clip_low is 1\.5"),
        (LossSpec, {"clip_dual": 1.0}, r"loss\.clip_dual is 1\.0"),
        (LossSpec, {"constant": 8}, r"loss\.constant is 8 but loss\.aggregation is 'token'"),
        (LossSpec, {"kind": "ce", "kl": 0.1}, r"loss\.kl is 0\.1 but loss\.kind is 'ce'"),
        (LossSpec, {"kind": "pairs", "aggregation": "constant"}, r"loss\.aggregation"),
        (LossSpec, {"update_rows": 8, "minibatches": 2}, "set one of them"),
        (LossSpec, {"epochs": 0}, r"loss\.epochs is 0"),
    ],
)
def test_refused(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(**values)


def test_resolve_leaves_what_was_said_alone():
    said = LearnOptions(micro_tokens=7, remat="dots", dtype="bfloat16", unrolled_layers=0)
    for backend in ("cpu", "gpu", "tpu"):
        found = said.resolve(backend)
        assert (found.micro_tokens, found.remat, found.dtype) == (7, "dots", "bfloat16")
        assert found.unrolled_layers == 0 and found.attention_tokens
    assert LearnOptions().resolve("cpu").dtype == "float32"
    assert LearnOptions().resolve("tpu").dtype == "bfloat16"
    assert LearnOptions().resolve("gpu").remat == "full"
    kernels = {name: LearnOptions().resolve(name).attention for name in ("cpu", "gpu", "tpu")}
    assert kernels == {"cpu": "xla", "gpu": "xla", "tpu": "splash"}
    assert LearnOptions(attention="xla").resolve("tpu").attention == "xla"
