"""Generation of ``transformers`` on a workload of sample.py; runs in an environment of its own.

    python sample_with_transformers.py workload.json

Answers questions (``turns``) such as {"call": 3, "cache": "dynamic"} with the seconds of one
``generate``, from token ids to token ids and text, and the tokens. Caches: ``dynamic``, the
default; ``static``, which ``transformers`` compiles on a GPU by itself; ``compiled``, the same
compiled on a CPU too, where it must be asked for (and where torch needs a C++ compiler).
"""

from __future__ import annotations

import functools
import json
import pathlib
import statistics
import sys
import time
from typing import Any

import torch
import turns
from transformers import AutoModelForCausalLM, CompileConfig, PreTrainedTokenizerFast

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Load the model, then do as asked."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=work["dtype"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work["model"])
    turns.serve(functools.partial(generate, model.to(DEVICE).eval(), tokenizer, work))


def generate(
    model, tokenizer, work: dict[str, Any], call: int, cache: str, limit: int | None = None
) -> dict[str, Any]:
    """One call, timed; of another limit than the workload's, where one is given."""
    prompts = work["prompts"][call]
    # A static cache is made once and compiled for once, so it is for the longest of all prompts.
    whose = [prompts] if cache == "dynamic" else work["prompts"]
    width = max(len(prompt) for some in whose for prompt in some)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ids, mask = ids.to(DEVICE), mask.to(DEVICE)
    before = gpu_bytes()
    began = time.perf_counter()
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=limit or work["limit"],
            num_return_sequences=work["samples"],
            eos_token_id=work["end_ids"],
            pad_token_id=0,
            **settings(cache),
        )
    responses = found[:, width:].cpu()
    tokenizer.batch_decode(responses)
    seconds = time.perf_counter() - began
    lengths = [length(row, work["end_ids"]) for row in responses.tolist()]
    said = {"seconds": seconds, "tokens": sum(lengths), "median_length": statistics.median(lengths)}
    if DEVICE == "cuda":
        held = len(responses) * (width + responses.shape[1])
        said["bytes_per_token"] = (torch.cuda.max_memory_allocated() - before) / held
    return said


def settings(cache: str) -> dict[str, Any]:
    """What ``generate`` is told of its cache."""
    if cache == "dynamic":
        return {}
    if cache == "static":
        return {"cache_implementation": "static"}
    config = CompileConfig(mode="default")
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def length(row: list[int], end_ids: list[int]) -> int:
    """Tokens of a response up to its end token, which counts."""
    return next((at + 1 for at, token in enumerate(row) if token in end_ids), len(row))


def gpu_bytes() -> int:
    """Bytes that are allocated on the GPU; forgets the peak."""
    if DEVICE == "cpu":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


if __name__ == "__main__":
    main()
