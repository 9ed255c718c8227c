"""Live against transformers and torch: our folders load there, theirs here, the logits agree."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import tiny

from pruner_jax.policy import hf, rope
from pruner_jax.policy.config import RopeConfig, from_hf
from pruner_jax.policy.handle import Policy, load, logits, save

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def their_logits(model, tokens_BT: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(tokens_BT).long()).logits.float().numpy()


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_what_we_write_they_load(name, tmp_path):
    config, params = tiny.model(name)
    policy = Policy(config, params, None)
    folder = save(policy, tmp_path / "ours")
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(said.values()), said
    tokens = tiny.tokens(2, 40)
    assert tiny.relative(logits(policy, tokens), their_logits(model, tokens)) < 1e-5


@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_they_write_we_load(name, dtype, tmp_path):
    """Their random weights, in many files; in bfloat16 the bits survive the way here and back."""
    torch.manual_seed(0)
    raw = copy.deepcopy(tiny.CONFIGS[name])  # transformers writes into nested dictionaries
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / hf.INDEX).exists()
    policy = load(tmp_path / "theirs", dtype="auto")
    assert policy.params["embed"].dtype == dtype
    assert policy.config == from_hf(tiny.CONFIGS[name])
    if dtype == "float32":
        tokens = tiny.tokens(2, 40)
        assert tiny.relative(logits(policy, tokens), their_logits(model, tokens)) < 1e-5
    again = transformers.AutoModelForCausalLM.from_pretrained(save(policy, tmp_path / "again"))
    assert again.dtype == getattr(torch, dtype)
    theirs = model.state_dict()
    assert again.state_dict().keys() == theirs.keys()
    for key, value in again.state_dict().items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize(
    ("head_width", "given"),
    [
        (64, {"rope_type": "default", "rope_theta": 1000000.0}),  # Qwen2.5-0.5B
        (128, {"rope_type": "default", "rope_theta": 10000.0}),  # R1-Distill-Qwen-1.5B
        (128, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        (  # Llama-3.1-8B
            128,
            {
                **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0},
                **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
                "original_max_position_embeddings": 8192,
            },
        ),
        (  # Qwen2.5 and Qwen3 beyond 32k
            128,
            {
                **{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0},
                "original_max_position_embeddings": 32768,
            },
        ),
    ],
)
def test_frequencies_of_real_models_agree(head_width, given):
    """At position 32,768 an error in the last place of a frequency turns it 0.002 rad."""
    raw = tiny.CONFIGS["qwen3"] | {"head_dim": head_width, "max_position_embeddings": 131072}
    raw = {key: value for key, value in raw.items() if key != "rope_theta"}
    ours: RopeConfig = from_hf(raw | {"rope_parameters": given}).rope
    config = transformers.Qwen3Config(
        head_dim=head_width, max_position_embeddings=131072, rope_parameters=dict(given)
    )
    theirs = transformers.models.qwen3.modeling_qwen3.Qwen3RotaryEmbedding(config)
    found = rope.frequencies(ours, head_width)
    wanted = theirs.inv_freq.numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-7)
    assert ours.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-12)


def test_long_positions_agree(tmp_path):
    """The last rows of 1,500 tokens, where angles are large and sums are long."""
    raw = tiny.CONFIGS["llama3"] | {"max_position_embeddings": 4096}
    config = from_hf(raw)
    policy = Policy(config, tiny.params(config), None)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        save(policy, tmp_path / "m"), dtype=torch.float32, attn_implementation="eager"
    )
    tokens = tiny.tokens(1, 1500)
    found, wanted = logits(policy, tokens), their_logits(model, tokens)
    assert tiny.relative(found[:, -100:], wanted[:, -100:]) < 1e-4


def test_config_json_that_we_write_reads_the_same_there(tmp_path):
    """Nothing is lost or changed by writing, and the rope is understood as it was before."""
    for name, raw in tiny.CONFIGS.items():
        config, params = tiny.model(name)
        folder = save(Policy(config, params, None), tmp_path / name)
        theirs = transformers.AutoConfig.from_pretrained(folder)
        before = transformers.AutoConfig.for_model(**copy.deepcopy(raw))
        assert theirs.rope_parameters == before.rope_parameters
        assert json.loads((folder / "config.json").read_text()).items() >= (
            {key: value for key, value in raw.items() if "dtype" not in key}.items()
        )
