"""The real update, compiled for TPUs that are not there, attends by the kernel.

libtpu compiles on a machine without a TPU. What the programs run like, only a TPU tells.
"""

import pytest

from pruner_jax.learn.options import LearnOptions
from pruner_jax.policy.config import ModelConfig, RopeConfig

pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu, which is not installed")

CONFIG = ModelConfig(
    model_type="qwen2", vocab_size=256, width=128, layers=2, heads=16, kv_heads=4, head_width=128,
    mlp_width=128, context=4096, rope=RopeConfig(1e4), norm_eps=1e-6, tied=True,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Unlike the other tests here, as a run compiles it."""


@pytest.fixture(scope="module")
def script(benchmark):
    """benchmarks/attention_memory.py."""
    return benchmark("attention_memory")


# Short rows: the kernel costs seconds to compile, sorting the gradient of the embedding the rest.
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_rows_and_heads_cut_over_four_chips(script, topology):
    mesh = script.mesh_of(topology, fsdp=2, tensor=2)
    program = script.lowered(CONFIG, mesh, 2, 256, LearnOptions())
    # Forward, forward again for the backward pass, gradients of queries and of keys and values.
    assert program.as_text().count("tpu_custom_call") == 4
    assert program.compile().memory_analysis().temp_size_in_bytes > 0


def test_xla_is_there_for_tpus_too(script):
    mesh = script.mesh_of("v5e:2x2", fsdp=2, tensor=2)
    program = script.lowered(CONFIG, mesh, 2, 256, LearnOptions(attention="xla"))
    assert "tpu_custom_call" not in program.as_text()
