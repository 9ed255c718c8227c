"""Live against ``transformers.generate``: greedy responses are the same, token for token."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import small

from pruner_jax.policy.handle import load, logits
from pruner_jax.policy.weights import unstack
from pruner_jax.sample.sampler import sample

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BASE = dict(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
    initializer_range=0.25,
)
FAMILIES = {
    "qwen2": {},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "llama": {"attention_bias": True, "num_key_value_heads": 4},
    "mistral": {"sliding_window": 6, "num_key_value_heads": 1},
}
END = (3, 17, 30)
LIMIT = 30


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_theirs(family, tmp_path):
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **BASE | FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.eval().save_pretrained(tmp_path)
    policy = load(tmp_path)
    asked = small.prompts(8)
    found, _ = sample(
        unstack(policy.params, jnp.float32),
        policy.config,
        asked,
        samples=1,
        limit=LIMIT,
        seed=0,
        end_ids=END,
        close_ids=(5,),
        opened=False,
        decode=str,
        options=small.SampleOptions(temperature=0.0, rows=4, block=8, slot_multiple=16),
    )
    lengths = []
    for b, prompt in enumerate(asked.tokens):
        theirs = model.generate(
            torch.from_numpy(prompt[None]).long(),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=LIMIT,
            eos_token_id=list(END),
            pad_token_id=0,
        )[0, len(prompt) :].numpy()
        ours = found.tokens_BT[b, : found.length_B[b]]
        until = min(len(ours), len(theirs))
        differ = np.flatnonzero(ours[:until] != theirs[:until])
        if len(differ):  # allowed where the two best logits are as good as equal
            row = np.concatenate([prompt, ours[: differ[0]]])
            best = np.sort(np.asarray(logits(policy, row[None]))[0, -1])
            assert best[-1] - best[-2] < 1e-3, (b, differ[0], ours, theirs)
            continue
        assert len(ours) == len(theirs)
        assert found.finished_B[b] == (theirs[-1] in END)
        lengths.append(len(ours))
    assert len(lengths) >= 7 and min(lengths) < LIMIT  # almost all were compared; some ended
