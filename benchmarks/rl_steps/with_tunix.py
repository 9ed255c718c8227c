"""Steps of Tunix' ``GRPOLearner`` on a workload of rl_step.py; runs in an environment of its own.

    python with_tunix.py workload.json

Prints a JSON line for each step: its seconds, those of generation, and the tokens generated. No
reference model, checkpoints or evaluation; prompts are padded to the longest of the workload, and
the cache is as large as they and an answer.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rewards
from transformers import PreTrainedTokenizerFast
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout import base_rollout


def main() -> None:
    """Train for as many steps as the workload says."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work["model"])
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in work["prompts"])
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    actor = load(work, mesh)
    train = rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.adamw(work["learning_rate"]),
        eval_every_n_steps=10**6,
        max_steps=work["steps"] + 1,  # all batches are taken
        mini_batch_size=work["prompts_per_step"],
        train_micro_batch_size=work["prompts_per_step"],
    )
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=work["limit"],
        max_prompt_length=longest,
        kv_cache_size=longest + work["limit"] + 1,
        temperature=1.0,
        top_p=1.0,
        eos_tokens=work["end_ids"],
    )
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=actor,
        tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            rollout_engine="vanilla",
            training_config=train,
            rollout_config=rollout,
        ),
    )
    learner = GRPOLearner(
        rl_cluster=cluster,
        algo_config=GRPOConfig(num_generations=work["samples"], beta=0.0),
        reward_fns=getattr(rewards, work["reward"]),
    )
    learner.train(Steps(work, cluster))


def load(work: dict, mesh: jax.sharding.Mesh) -> qwen2.Qwen2:
    """The model from its folder."""
    hf = json.loads((pathlib.Path(work["model"]) / "config.json").read_text())
    config = qwen2.ModelConfig(
        num_layers=hf["num_hidden_layers"],
        vocab_size=hf["vocab_size"],
        embed_dim=hf["hidden_size"],
        hidden_dim=hf["intermediate_size"],
        num_heads=hf["num_attention_heads"],
        head_dim=hf["hidden_size"] // hf["num_attention_heads"],
        num_kv_heads=hf["num_key_value_heads"],
        rope_theta=hf["rope_theta"],
        norm_eps=hf["rms_norm_eps"],
        use_tied_embedding=hf["tie_word_embeddings"],
        dtype=jnp.dtype(work["dtype"]),
    )
    with mesh:
        return params.create_model_from_safe_tensors(work["model"], config, mesh, dtype=jnp.float32)


class Steps:
    """The batches, a step each; when the next one is asked for the step before is over."""

    def __init__(self, work: dict, cluster: rl_cluster.RLCluster):
        self.work, self.cluster = work, cluster
        self.generating, self.tokens = 0.0, 0
        self.generate, cluster.generate = cluster.generate, self.timed

    def timed(self, *args, **kwargs):
        """Generation, with a look at the clock."""
        began = time.perf_counter()
        found = self.generate(*args, **kwargs)
        self.generating += time.perf_counter() - began
        self.tokens += sum(int(np.size(tokens)) for tokens in found.tokens)
        return found

    def __iter__(self):
        """Batches, until all steps are made."""
        work, each = self.work, self.work["prompts_per_step"]
        for step in range(work["steps"]):
            began = time.perf_counter()
            self.generating, self.tokens = 0.0, 0
            part = slice(step * each, (step + 1) * each)
            yield {
                "prompts": np.array(work["prompts"][part]),
                "gold": np.array(work["golds"][part]),
            }
            jax.block_until_ready(jax.live_arrays())
            line = {
                "seconds": time.perf_counter() - began,
                "generate_seconds": self.generating,
                "tokens": self.tokens,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
