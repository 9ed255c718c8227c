"""Rewards of the workloads of rl_step.py, in the signature that TRL has made common."""

import re

BOXED = re.compile(r"\\boxed\{(\d+)\}")


def correct(completions, gold, **_):
    """1 for a completion whose last boxed answer is the right one."""
    return [
        float((found := BOXED.findall(text)) != [] and found[-1] == answer)
        for text, answer in zip(completions, gold)
    ]


def even(completions, **_):
    """1 for a text of even length: a coin, so that every row of a random model has a weight."""
    return [float(len(text) % 2 == 0) for text in completions]
