"""Updates of a plain torch step on the rows of learn.py; runs in an environment of its own.

    python learn_with_torch.py workload.json

Answers questions (``turns``) such as {"rows": 32, "sorted": true} with the seconds of one update:
micro-batches of so many right-padded rows, each as long as its longest; in the order given, or by
length, which pads least. sdpa attention without a mask, as padding comes after everything; only the
hidden states that predict a response go through the vocabulary product; clipped policy gradient
over the mean of all tokens, gradients clipped, fused AdamW: what learn.py's update does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import sys
import time
from typing import Any

import torch
import turns
from torch.nn import functional
from transformers import AutoModelForCausalLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Load the model, then do as asked."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    model = AutoModelForCausalLM.from_pretrained(
        work["model"], dtype="float32", attn_implementation="sdpa"
    )
    model = model.to(DEVICE).train()
    decays = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays}, {"params": others, "weight_decay": 0.0}],
        lr=work["learning_rate"],
        betas=work["betas"],
        eps=work["eps"],
        weight_decay=work["weight_decay"],
        fused=True,
    )
    turns.serve(functools.partial(update, model, optimizer, work))


def update(model, optimizer, work: dict[str, Any], rows: int, sorted: bool) -> dict[str, Any]:
    """One optimiser update, timed from the ragged rows on."""
    began = time.perf_counter()
    order = list(range(len(work["prompt"])))
    if sorted:
        order.sort(key=lambda b: len(work["prompt"][b]) + len(work["response"][b]))
    trained = sum(map(len, work["response"]))
    loss = 0.0
    for first in range(0, len(order), rows):
        part = policy_gradient(model, work, order[first : first + rows]) / trained
        part.backward()
        loss += part.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), work["grad_clip"])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss, norm = float(loss), float(norm)  # waits for a GPU
    return {"seconds": time.perf_counter() - began, "loss": loss, "grad_norm": norm}


def policy_gradient(model, work: dict[str, Any], some: list[int]) -> torch.Tensor:
    """Summed loss of a micro-batch: max(-w r, -w clip(r)) of each response token."""
    prompts = [work["prompt"][b] for b in some]
    tokens = [prompt + work["response"][b] for prompt, b in zip(prompts, some)]
    width = max(map(len, tokens))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in tokens], device=DEVICE)
    begin = torch.tensor([[len(prompt) - 1] for prompt in prompts], device=DEVICE)
    end = torch.tensor([[len(row) - 1] for row in tokens], device=DEVICE)
    place = torch.arange(width, device=DEVICE)
    predicts = (place >= begin) & (place < end)
    precision = contextlib.nullcontext()
    if work["dtype"] != "float32":
        precision = torch.autocast(DEVICE, dtype=getattr(torch, work["dtype"]))
    with precision:
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[predicts])
    targets = ids.roll(-1, dims=1)[predicts]
    logp = -functional.cross_entropy(logits.float(), targets, reduction="none")
    weight = torch.tensor([work["weight"][b] for b in some], device=DEVICE)
    weight = weight[:, None].expand(-1, width)[predicts]
    ratio = (logp - work["old_logp"]).exp()
    return torch.maximum(-weight * ratio, -weight * ratio.clamp(*work["clip"])).sum()


if __name__ == "__main__":
    main()
