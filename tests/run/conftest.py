"""A tiny random model around the testbed's tokenizer, and settings for short runs."""

import json

import jax
import pytest

from pruner_jax import text
from pruner_jax.config import PruneConfig, load
from pruner_jax.policy import handle, weights
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.handle import Policy
from pruner_jax.problems import last_digit

ARCHITECTURE = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a randomly initialised model."""
    folder = tmp_path_factory.mktemp("model")
    last_digit.write_tokenizer(folder / "tokenizer")
    tokenizer = text.load_tokenizer(folder / "tokenizer")
    config = from_hf(
        {**ARCHITECTURE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    )
    params = weights.init(config, jax.random.key(0), "float32")
    generation = json.loads((folder / "tokenizer" / "generation_config.json").read_text())
    handle.save(
        Policy(config, params, tokenizer, generation, folder / "tokenizer"), folder / "model"
    )
    return folder / "model"


@pytest.fixture(scope="session")
def settings(model):
    """``settings(*overrides)``: a run of two rounds of four steps that takes seconds."""

    def make(*overrides: str) -> PruneConfig:
        return load(
            PruneConfig,
            None,
            [
                f"--model={model}",
                "--out=runs/unnamed",
                "--problems.options.train=64",
                "--problems.options.monitor=8",
                "--problems.options.test=8",
                "--method.name=thinkprune",
                "--method.options.samples=4",
                "--rounds.limits=[24,16]",
                "--rounds.steps=4",
                "--rounds.prompts=4",
                "--rounds.evaluate_every=2",
                "--rounds.save_every=1",
                "--rounds.log_rollouts_every=2",
                "--optimizer.learning_rate=1e-3",
                "--sample.rows=16",
                *(f"--{name}.temperature=1.0" for name in ("monitor", "test")),
                *(f"--{name}.top_p=1.0" for name in ("monitor", "test")),
                *(f"--{name}.samples=2" for name in ("monitor", "test")),
                "--test.resamples=200",
                "--pick.tolerance=0.9",
                "--guards.action=warn",
                "--verify.workers=1",
                *overrides,
            ],
        )

    return make
