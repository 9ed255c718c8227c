"""A tiny random model around the testbed's tokenizer, and settings for short runs."""

import json
import pathlib
import re

import jax
import pytest

from pruner_jax import text
from pruner_jax.config import PruneConfig, load
from pruner_jax.policy import handle, weights
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.handle import Policy
from pruner_jax.problems import last_digit
from pruner_jax.run.session import Session

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


PAGE = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"


def undocumented(record, keys):
    """Keys of a record of metrics.jsonl that the page lacks; a phase's own are under its name."""
    rooms = {key.split("/")[0] for key in keys if "/" in key}

    def common(key):
        key = re.sub(r"kept_mode/-?\d+", "kept_mode/M", key)
        key = re.sub(r"perf/compiled/.+", "perf/compiled/NAME", key)
        first, _, rest = key.partition("/")
        if first == "perf" and key not in keys:
            return "perf/" + rest.partition("/")[2]
        return key if first in rooms or not rest else rest

    return [key for key in record if common(key) not in keys]


@pytest.fixture(scope="session", autouse=True)
def every_metric_is_documented():
    """Whatever any run of these tests writes to its metrics.jsonl."""
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    keys = {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
    real = Session.record

    def record(run, line):
        assert not (lacking := undocumented(line, keys)), f"docs/metrics.md lacks {lacking}"
        return real(run, line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "record", record)
        yield


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
