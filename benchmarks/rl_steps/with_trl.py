"""Steps of TRL's ``GRPOTrainer`` on a workload of rl_step.py; runs in an environment of TRL's own.

    python with_trl.py workload.json

Prints a JSON line for each step: its seconds, those of generation, and the tokens generated. What
slows TRL down and has no part in the work is off: gradient checkpointing, logging of completions,
saving, evaluation, a reference model (but where the workload has a KL term).
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import rewards
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Timed(GRPOTrainer):
    """Notes the seconds of generation, and the tokens."""

    generating, tokens = 0.0, 0

    def _generate(self, *args, **kwargs):
        began = time.perf_counter()
        found = super()._generate(*args, **kwargs)
        self.generating += time.perf_counter() - began
        self.tokens += sum(map(len, found[1]))
        return found


class Clock(TrainerCallback):
    """One line for each step."""

    def __init__(self, trainer: Timed):
        self.trainer, self.began = trainer, None

    def on_step_begin(self, *_, **__):
        """The first one starts the clock."""
        self.began = self.began or time.perf_counter()

    def on_step_end(self, *_, **__):
        """The step is over, its records included."""
        now, trainer = time.perf_counter(), self.trainer
        line = {
            "seconds": now - self.began,
            "generate_seconds": trainer.generating,
            "tokens": trainer.tokens,
        }
        print(json.dumps(line), flush=True)
        self.began, trainer.generating, trainer.tokens = now, 0.0, 0


def main() -> None:
    """Train for as many steps as the workload says."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    rows = work["prompts_per_step"] * work["samples"]
    micro = work.get("trl_micro_rows") or rows
    config = GRPOConfig(
        output_dir=work["out"],
        use_cpu=not torch.cuda.is_available(),
        bf16=work["dtype"] == "bfloat16",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=work["samples"],
        max_completion_length=work["limit"],
        temperature=1.0,
        beta=work.get("kl", 0.0),
        learning_rate=work["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=work["steps"],
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=work["seed"],
        **work.get("trl", {}),
    )
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(work["model"], dtype=work["dtype"]),
        processing_class=PreTrainedTokenizerFast.from_pretrained(
            work["model"], padding_side="left"
        ),
        reward_funcs=getattr(rewards, work["reward"]),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": work["prompts"], "gold": work["golds"]}),
    )
    trainer.add_callback(Clock(trainer))
    trainer.train()


if __name__ == "__main__":
    main()
