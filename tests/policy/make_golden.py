"""Makes golden/*.npz: logits that transformers computes for every model of tiny.py.

Run as ``python tests/policy/make_golden.py`` where torch and transformers are installed. Each file
holds the config, the tokens, the logits and the versions that made them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
import transformers
from tiny import CONFIGS, numbers, tokens, write_json

GOLDEN = Path(__file__).parent / "golden"


def reference_logits(raw: dict, tokens_BT: np.ndarray) -> np.ndarray:
    """What transformers says of the tiny model with this config.json; float32 [B, T, V]."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", raw)
        config = transformers.AutoConfig.from_pretrained(folder)
        empty = transformers.AutoModelForCausalLM.from_config(config)
        shapes = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
        if raw.get("tie_word_embeddings"):
            del shapes["lm_head.weight"]
        weights = {name: numbers(name, shape) for name, shape in shapes.items()}
        path = Path(folder) / "model.safetensors"
        safetensors.numpy.save_file(weights, path, metadata={"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            return model.eval()(torch.from_numpy(tokens_BT).long()).logits.numpy()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    for name, raw in CONFIGS.items():
        rows = tokens(1, 24, seed=1)
        logits = reference_logits(raw, rows)
        path = GOLDEN / f"{name}.npz"
        np.savez_compressed(
            path, config=json.dumps(raw), tokens=rows, logits=logits, versions=versions
        )
        print(f"{path.name}: {path.stat().st_size} bytes, largest logit {np.abs(logits).max():.3f}")
