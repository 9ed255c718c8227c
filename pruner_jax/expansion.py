"""What a second model is shown of a thought: the prompt, masked answers, fewer steps.

Plain text in and out; used where a second model is asked (`run.second`), where one is trained
(`problems.last_digit_expansion`) and where the redundancy of thoughts is studied
(`benchmarks/hawkeye.py`). Leaves out models, tokens and grading.
"""

from __future__ import annotations

import re

import numpy as np

PROMPT = "{question}\n\n{thought}"

# A sentence or a line; and the words of one that looks at earlier ones again.
STEP = r"(?:[^\n.!?]|[.!?](?=\S))+(?:[.!?]+|\n+|$)\s*"
AGAIN = r"(?i)\b(?:wait|hmm|check|verify|again|alternatively|let me (?:re|double)|make sure)"


def ask(prompt: str, question: str, thought: str) -> str:
    """The prompt with question and thought in their places; neither is searched for places."""
    parts = {"{question}": question, "{thought}": thought}
    return re.sub(r"\{question\}|\{thought\}", lambda found: parts[found.group()], prompt)


def mask(thought: str, answer: str, instead: str) -> str:
    """The thought without literal mentions of the answer; a number inside another one stays."""
    if not answer.strip():
        return thought
    literal = re.escape(answer.strip())
    before = r"(?<![\d.])" if answer.strip()[0].isdigit() else ""
    after = r"(?![\d]|\.\d)" if answer.strip()[-1].isdigit() else ""
    return re.sub(before + literal + after, lambda _: instead, thought)


def leaks(thought: str, answer: str) -> bool:
    """Whether the thought says the answer literally."""
    return mask(thought, answer, "\0") != thought


def thinned(
    thought: str,
    share: float,
    rng: np.random.Generator,
    step: str = STEP,
    again: str = AGAIN,
) -> str:
    """The thought without about that share of its characters, in whole steps: repeats go first,
    then steps that match ``again``, then others; by chance among equals. What no ``step`` matches
    goes character by character."""
    steps = [found.group() for found in re.finditer(f"(?:{step})|(?s:.)", thought)]
    seen: set[str] = set()
    kinds = []
    for said in steps:
        repeated = said.strip() in seen
        seen.add(said.strip())
        kinds.append(0 if repeated else 1 if re.search(again, said) else 2)
    left, removed = share * len(thought), set()
    for place in np.lexsort([rng.random(len(steps)), kinds]):
        if left < len(steps[place]) / 2:
            break
        left -= len(steps[place])
        removed.add(place)
    return "".join(said for place, said in enumerate(steps) if place not in removed)
