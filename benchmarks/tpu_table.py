"""Plans of four models on TPU slices, from real compilations: the table of docs/tpu.md.

    python benchmarks/tpu_table.py plans.jsonl --limits 4096 3072 2048
    python benchmarks/tpu_table.py plans.jsonl --print

The first makes the plans that the file does not hold yet, each by a ``pruner-jax plan`` of its own,
and appends them; the second prints the table of those that are there. Needs the package libtpu and
no TPU; a plan takes minutes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

MODELS = {
    "r1_distill_qwen_1p5b": {"v5e": "v5e:4x4", "v6e": "v6e:2x4", "v5p": "v5p:2x2x1"},
    "r1_distill_qwen_7b": {"v5e": "v5e:8x8", "v6e": "v6e:4x8", "v5p": "v5p:2x2x2"},
    "r1_distill_llama_8b": {"v5e": "v5e:8x8", "v6e": "v6e:4x8", "v5p": "v5p:2x2x2"},
    "r1_distill_qwen_32b": {"v5e": "v5e:16x16", "v6e": "v6e:16x16", "v5p": "v5p:4x4x4"},
}
# Where the four chips of a host have to share a sampler's weights, or have room for fewer rows at
# once than the config asks for.
_SHARED = "--mesh.tensor=4"
_FEWER = "--sample.rows=16"
SPECIAL = {
    ("r1_distill_qwen_7b", "v5e"): [_SHARED],
    ("r1_distill_llama_8b", "v5e"): [_SHARED],
    ("r1_distill_llama_8b", "v6e"): [_FEWER],
    ("r1_distill_qwen_32b", "v5e"): [_SHARED, _FEWER],
    ("r1_distill_qwen_32b", "v6e"): [_SHARED, _FEWER],
    ("r1_distill_qwen_32b", "v5p"): [_FEWER],
}
GIB = 1 << 30


def key(model: str, topology: str, limit: int) -> tuple[str, str, int]:
    """What tells plans apart."""
    return model, topology, limit


def wanted(limits: list[int], chips: list[str]) -> list[tuple[str, str, int]]:
    """All the plans of the table."""
    return [
        key(model, slices[chip], limit)
        for limit in limits
        for model, slices in MODELS.items()
        for chip in chips
    ]


def read(path: pathlib.Path) -> dict[tuple[str, str, int], dict]:
    """The plans of a file."""
    lines = path.read_text().splitlines() if path.exists() else []
    plans = [json.loads(line) for line in lines]
    return {key(p["name"], p["topology"], p["limit"]): p for p in plans}


def plan(model: str, topology: str, limit: int) -> dict:
    """One plan, by the command."""
    words = ["plan", "configs/plan.yaml", f"--topology={topology}", "--json"]
    words += [f"--model=configs/models/{model}", f"--rounds.limits=[{limit}]"]
    words += SPECIAL.get((model, topology.partition(":")[0]), [])
    done = subprocess.run(
        [sys.executable, "-m", "pruner_jax", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"pruner-jax {' '.join(words)} failed:\n{done.stderr}")
    return {"name": model, **json.loads(done.stdout)}


def gib(size: int | None) -> str:
    """A size of memory."""
    return "too much" if size is None else f"{size / GIB:.1f}"


def line(p: dict) -> str:
    """A plan as a row of the table."""
    learner, sampler = p["learner"]["prune"], p["sampler"]["train"]
    memory = p["device"]["memory_bytes"]
    estimate = p["estimate"]["collections"]["prune"]
    speed = p["estimate"]["decode_tokens_per_second"]
    least = "" if "decode" in sampler else "≥ "
    copies = sampler.get("cache_copies", "–")
    cells = [
        p["name"],
        p["topology"],
        " × ".join(str(p["devices"][axis]) for axis in ("fsdp", "tensor")),
        str(p["limit"]),
        f"{learner['micro_rows']} × {learner['row_tokens']}",
        f"{gib(learner['bytes'])} {'' if learner['fits'] else '**no**'}".strip(),
        f"{sampler['rows']} × {sampler['slots']}",
        f"{least}{gib(sampler['bytes'])} {'' if sampler['fits'] else '**no**'}".strip(),
        f"{memory / GIB:.2f}",
        str(copies),
        f"{speed:,.0f}" if sampler["fits"] else "–",
        f"{estimate['write_seconds']:.0f}" if sampler["fits"] else "–",
        *(
            f"{estimate[part]:.0f}" if learner["fits"] else "–"
            for part in ("score_seconds", "learn_seconds")
        ),
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| model | slice | fsdp × tensor | limit | micro-batch | learner GiB | rows × slots | "
    "sampler GiB | of GiB | cache copies | tokens/s | write s | score s | learn s |\n"
    + "|---" * 14
    + "|"
)


def main() -> None:
    """Make plans, or print those that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--limits", type=int, nargs="+", default=[4096, 3072, 2048])
    parser.add_argument("--chips", nargs="+", default=["v5e", "v6e", "v5p"])
    parser.add_argument("--print", action="store_true")
    given = parser.parse_args()
    plans = read(given.file)
    if given.print:
        order = wanted(given.limits, given.chips)
        print("\n".join([HEAD, *(line(plans[k]) for k in order if k in plans)]))
        return
    for each in wanted(given.limits, given.chips):
        if each not in plans:
            made = plan(*each)
            with given.file.open("a") as file:
                file.write(json.dumps(made) + "\n")
            print(line(made), flush=True)


if __name__ == "__main__":
    main()
