"""A run folder as the pruning job leaves it, simulated: last-digit sums, two re-checks too many."""

import json
import pathlib
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
import yaml

from pruner_jax.measure.outcomes import outcomes
from pruner_jax.measure.summary import Round, summary, versions
from pruner_jax.store.records import write_rollouts
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts, Verdict

LIMITS = (120, 80, 56)
CAP = 160  # of the evaluations
DOUBTS = ("Wait , check again :", "Hmm ,", "Is that right ? Yes ,", "Let me recompute :")
STEPS = 40


def make_problems(count, purpose):
    problems = []
    for i in range(count):
        rng = np.random.default_rng([i, len(purpose)])
        digits = rng.integers(0, 10, 2 + i % 5)
        listed = ", ".join(f"{'abcdefgh'[j]} = {d}" for j, d in enumerate(digits))
        problems.append(
            Problem(
                id=f"digits/{purpose}/{i:04d}",
                question=f"Given {listed}: what is the last digit of their sum?",
                answer=str(digits.sum() % 10),
                difficulty=float(len(digits)),
                columns={"digits": digits},
            )
        )
    return tuple(problems)


def think(rng, digits, checks, second_pass, slip):
    """One trace in words; a slip is a wrong running sum that a re-check repairs."""
    lines, total = [f"Start with {digits[0]} ."], int(digits[0])
    for label, digit in zip("bcdefgh", digits[1:]):
        total = (total + int(digit)) % 10
        shown = (total + 3) % 10 if rng.random() < slip else total
        lines.append(f"Add {label} = {digit} : {shown} .")
        times = rng.poisson(checks) + (shown != total)
        lines += [f"{rng.choice(DOUBTS)} {total} ." for _ in range(int(times))]
    if rng.random() < second_pass:
        lines.append("Let me go over the whole sum once more .")
        lines += [f"Then {digit} ." for digit in digits]
    right = rng.random() < (0.99 - 0.03 * len(digits) - 0.01 * min(checks, 1))
    return "\n".join(lines), total if right else (total + 1) % 10


def sample(problems, purpose, samples, limit, *, checks, second_pass, seed):
    """Graded rows of a simulated reasoner; tokens are words."""
    rows = []
    for p, problem in enumerate(problems):
        for g in range(samples):
            rng = np.random.default_rng([seed, p, g])
            thought, answer = think(rng, problem.columns["digits"], checks, second_pass, 0.1)
            head = f"{thought}\n</think>".replace("\n", " \n ").split(" ")
            tail = ["\n\n", "The", "answer", "is", f"\\boxed{{{answer}}}", "<end>"]
            words = (head + tail)[:limit]
            finished = len(head) + len(tail) <= limit
            right = str(answer) == problem.answer
            verdict = Verdict.CORRECT if right else Verdict.WRONG
            text = " ".join(w for w in words if w != "<end>").replace(" \n ", "\n")
            rows.append((p, g, words, min(len(head), limit), finished, verdict, text, str(answer)))
    groups, draws, words, thinking, finished, verdicts, text, answers = zip(*rows)
    length_B = np.array([len(w) for w in words], np.int32)
    tokens_BT = np.zeros((len(rows), length_B.max()), np.int32)
    for b, row in enumerate(words):
        tokens_BT[b, : len(row)] = [zlib.crc32(w.encode()) % 5000 for w in row]
    prompts = Prompts(
        problems,
        tuple(f"<user>{p.question}<assistant><think>\n" for p in problems),
        tuple(np.zeros(4, np.int32) for _ in problems),
        purpose,
        np.zeros(len(problems), np.int32),
    )
    live_BT = np.arange(tokens_BT.shape[1]) < length_B[:, None]
    rollouts = Rollouts(
        prompts=prompts,
        group_B=np.array(groups, np.int32),
        sample_B=np.array(draws, np.int32),
        tokens_BT=tokens_BT,
        logp_BT=np.full(tokens_BT.shape, -0.1, np.float32),
        origin_BT=np.where(live_BT, 2, 0).astype(np.uint8),
        length_B=length_B,
        thinking_B=np.array(thinking, np.int32),
        finished_B=np.array(finished),
        text=text,
        temperature=0.6,
        limit=limit,
        mode_B=np.zeros(len(rows), np.int32),
        budget_B=np.full(len(rows), -1, np.int32),
        parent_B=np.full(len(rows), -1, np.int32),
    )
    verdict_B = np.where(finished, verdicts, Verdict.UNFINISHED).astype(np.int8)
    extracted = tuple(a if f else None for a, f in zip(answers, finished))
    return Graded(rollouts, verdict_B, (verdict_B == 0).astype(np.float32), extracted)


def metrics(accuracy, tokens):
    """Three rounds of a run whose responses shorten from 76 to 43 tokens."""
    rng = np.random.default_rng(0)

    def noisy(value, spread):
        return float(value + spread * rng.normal())

    records = [_evaluated(0, 0, accuracy, tokens, 0.02, False)]
    for i, limit in enumerate(LIMITS):
        for step in range(STEPS * i + 1, STEPS * (i + 1) + 1):
            length = 41 + 36 * np.exp(-step / 45)
            accuracy = min(
                0.97, 0.80 + 0.09 * (1 - np.exp(-step / 40)) - 0.05 * ((step - 1) % STEPS < 6)
            )
            clipped = max(0.0, noisy(0.16 * np.exp(-((step - 1) % STEPS) / 9), 0.006))
            records.append(
                {
                    "kind": "step",
                    "round": i + 1,
                    "step": step,
                    "limit": limit,
                    "reward": noisy(accuracy, 0.02),
                    "prune/accuracy": noisy(accuracy, 0.02),
                    "completions/mean_length": noisy(length, 0.8),
                    "completions/clipped_ratio": clipped,
                    "entropy": noisy(0.35 * np.exp(-step / 90), 0.01),
                    "kl": 0.001 * step,
                    "time/rollout": 0.6,
                    "time/verify": 0.1,
                    "time/learn": 0.3,
                }
            )
            if step % 10 == 0:
                found = noisy(0.825 + 0.04 * (step / 120), 0.006)
                cut = 0.004 * (i + 1)
                picked = step in (40, 70, 120)
                records.append(_evaluated(i + 1, step, found, noisy(length, 0.4), cut, picked))
    return records


def _evaluated(round, step, accuracy, tokens, truncated, picked):
    return {
        "kind": "evaluate",
        "round": round,
        "step": step,
        "accuracy": accuracy,
        "mean_tokens": tokens,
        "truncated": truncated,
        "picked": picked,
    }


def make_run(folder: pathlib.Path, problems=120, samples=4) -> pathlib.Path:
    """Write every file of a finished run."""
    (folder / "rollouts").mkdir(parents=True)
    test = make_problems(problems, Purpose.TEST)
    monitor = make_problems(problems // 2, Purpose.MONITOR)
    wordy, brief = {"checks": 1.6, "second_pass": 0.5}, {"checks": 0.25, "second_pass": 0.02}
    base = sample(test, Purpose.TEST, samples, CAP, seed=1, **wordy)
    final = sample(test, Purpose.TEST, samples, CAP, seed=2, **brief)
    start = sample(monitor, Purpose.MONITOR, samples, CAP, seed=3, **wordy)
    for name, graded in (("base-test", base), ("final-test", final), ("base-monitor", start)):
        write_rollouts(folder / "rollouts" / f"{name}.parquet", graded, round=0, step=0)
    records = metrics(start.correct_B.mean(), start.rollouts.length_B.mean())
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    picked = [record for record in records if record.get("picked")]
    rounds = [
        Round(limit, STEPS, r["step"], r["accuracy"], r["mean_tokens"], "the shortest of 4 in band")
        for limit, r in zip(LIMITS, picked)
    ]
    seconds = {"rollout": 74.0, "verify": 11.5, "learn": 38.2, "evaluate": 21.9, "save": 2.4}
    found = summary(
        outcomes(base),
        outcomes(final),
        rounds=rounds,
        seconds=seconds,
        versions=versions(),
        resamples=2000,
    )
    (folder / "summary.json").write_text(json.dumps(found, indent=2))
    config = {
        "seed": 0,
        "out": "runs/quickstart",
        "model": "models/last-digit",
        "method": {"name": "thinkprune", "options": {}},
        "rounds": {"limits": list(LIMITS), "steps": STEPS},
        "pick": {"tolerance": 0.03, "confidence": 0.95},
        "text": {"think_open": "<think>", "think_close": "</think>"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "finished", problems=40)


class Drawing:
    """A chart read back: its marks by tag and class, and its words."""

    def __init__(self, drawing: str):
        self.root = ET.fromstring(drawing)

    def marks(self, tag: str, class_: str) -> list[ET.Element]:
        return [e for e in self.root.iter(tag) if class_ in e.get("class", "").split()]

    def texts(self) -> list[str]:
        return ["".join(e.itertext()) for e in self.root.iter("text")]


@pytest.fixture(scope="session")
def drawing():
    return Drawing
