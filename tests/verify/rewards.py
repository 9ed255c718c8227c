"""Reward functions as users of TRL and verl write them. Not a test file."""

import re


def correctness(prompts, completions, completion_ids, solution, **kwargs):
    """TRL, plain text: 1.0 where the number after #### is the solution."""
    found = [re.search(r"####\s*(-?\d+)", completion) for completion in completions]
    return [1.0 if m and m.group(1) == s else 0.0 for m, s in zip(found, solution)]


def chat_correctness(completions, answer, **kwargs):
    """TRL, chats: completions are lists of messages."""
    contents = [completion[0]["content"] for completion in completions]
    return [float(a in content) for content, a in zip(contents, answer)]


def shortness(completions, completion_ids, **kwargs):
    """TRL: by the number of tokens."""
    return [1.0 - len(ids) / 100 for ids in completion_ids]


def only_mathematics(prompts, completions, task, **kwargs):
    """TRL: None where the function does not apply to a row."""
    return [1.0 if t == "math" else None for t in task]


def seen(prompts, completions, completion_ids, **kwargs):
    """TRL: fails with all that it was given."""
    raise RuntimeError(repr((prompts, completions, completion_ids, sorted(kwargs))))


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """verl, as for GSM8K: the last number, 0.1 for the format alone."""
    if data_source != "openai/gsm8k":
        raise NotImplementedError(f"Reward function is not implemented for {data_source=}")
    numbers = re.findall(r"#### (-?[0-9.,]+)", solution_str)
    if not numbers:
        return 0.0
    return 1.0 if numbers[-1].replace(",", "") == ground_truth else 0.1


def compute_score_dict(data_source, solution_str, ground_truth, extra_info=None):
    """verl, as for DAPO: -1 or 1, and whether it is right."""
    right = ground_truth in solution_str
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str[-10:]}


def compute_score_soft(data_source, solution_str, ground_truth, extra_info=None):
    """verl: a score from the extra columns, without ``acc``."""
    return {"score": extra_info["weight"], "format": 1}
