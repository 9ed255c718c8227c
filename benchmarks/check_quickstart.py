"""The quickstart's promise, read from what the run wrote: exits with 1 where it is not kept.

    python benchmarks/check_quickstart.py runs/quickstart

Checks summary.json (three rounds or more; tokens at most 0.60 of the start's; accuracy not lower by
more than 0.02 at the lower end of an interval whose half-width is at most 0.01; five minutes), then
the exported folder against ``transformers`` (greedy text must be the same; needs torch), then
``pruner-jax evaluate`` on it against the final numbers.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys


def main() -> int:
    """Run all checks on one folder."""
    run = pathlib.Path(sys.argv[1])
    summary = json.loads((run / "summary.json").read_text())
    ratio, change = summary["token_ratio"], summary["accuracy_change"]
    final = summary["final"]
    half_width = (change["high"] - change["low"]) / 2
    seconds = sum(summary["seconds"].values())
    again = evaluate(run)
    inside = final["accuracy_in_general"]
    checks = {
        f"rounds: {len(summary['rounds'])} (at least 3)": len(summary["rounds"]) >= 3,
        f"test set: {final['n_problems']} x {final['samples_per_problem']}": (
            final["n_problems"] >= 512 and final["samples_per_problem"] >= 4
        ),
        f"token ratio: {ratio['value']:.3f} (at most 0.60)": ratio["value"] <= 0.60,
        f"accuracy change, low end: {change['low']:+.4f} (at least -0.02)": change["low"] >= -0.02,
        f"half-width on accuracy: {half_width:.4f} (at most 0.01)": half_width <= 0.01,
        f"seconds in phases: {seconds:.0f} (at most 300)": seconds <= 300,
        f"evaluate on the export: accuracy {again['accuracy']:.4f} within "
        f"[{inside['low']:.4f}, {inside['high']:.4f}]": (
            inside["low"] <= again["accuracy"] <= inside["high"]
        ),
        f"evaluate on the export: {again['mean_tokens']:.2f} tokens, the run said "
        f"{final['mean_tokens']:.2f}": abs(again["mean_tokens"] / final["mean_tokens"] - 1) < 0.02,
        "greedy text of the export is the same in transformers": same_greedy_text(run / "export"),
    }
    for sentence, kept in checks.items():
        print(f"{'ok ' if kept else 'NOT'} {sentence}")
    return 0 if all(checks.values()) else 1


def evaluate(run: pathlib.Path) -> dict:
    """The export, measured again by the command as the run's test measured it."""
    command = [sys.executable, "-m", "pruner_jax", "evaluate", str(run / "export")]
    done = subprocess.run(
        [*command, f"--like={run}", "--json"], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)["model"]


def same_greedy_text(folder: pathlib.Path, questions: int = 16) -> bool:
    """Greedy responses of this package and of ``transformers`` to the first test questions."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import pruner_jax as pj
    from pruner_jax import config
    from pruner_jax.problems.source import load_problems

    settings = config.load(config.PruneConfig, str(folder.parent / "config.yaml"))
    problems = load_problems(settings.problems, "test")[:questions]
    limit = 128
    ours = pj.generate(
        pj.load(folder),
        [problem.question for problem in problems],
        max_tokens=limit,
        temperature=0.0,
        text_options=settings.text,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for row, prompt in enumerate(ours.prompts.text):
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        theirs = out[0, inputs["input_ids"].shape[1] :].tolist()
        if theirs != ours.tokens_BT[row, : ours.length_B[row]].tolist():
            print(f"question {row}: ours {ours.text[row]!r}, theirs {tokenizer.decode(theirs)!r}")
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
