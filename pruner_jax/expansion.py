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
    """The thought without literal mentions of the answer. A number is also found as 1,000 or 1000.0
    for 1000; what is part of a longer number or word stays."""
    answer = answer.strip()
    if not answer:
        return thought
    pattern = _number(answer) or _words(answer)
    return re.sub(pattern, lambda _: instead, thought)


def _number(answer: str) -> str | None:
    """A pattern of the ways to write the number that the answer is, or None where it is none."""
    found = re.fullmatch(r"([-+]?)(\d+|\d{1,3}(?:,\d{3})+)(?:\.(\d+))?", answer)
    if found is None:
        return None
    sign, whole, part = found[1], found[2].replace(",", ""), (found[3] or "").rstrip("0")
    first = len(whole) % 3 or 3
    groups = [whole[:first], *(whole[n : n + 3] for n in range(first, len(whole), 3))]
    # Letters on either side are let pass: 5km says 5. Before a sign stands nothing to take from.
    before = rf"(?<![\w)]){re.escape(sign)}" if sign else r"(?<![\d.])"
    if not sign and len(whole) % 3 == 0:  # it may be the end of 1,234
        before += r"(?<!\d,)"
    zeros = rf"\.{part}0*" if part else r"(?:\.0+)?"
    return before + ",?".join(groups) + zeros + r"(?!\d|\.\d|,\d{3}(?!\d))"


def _words(answer: str) -> str:
    """A pattern of the answer where no letter or digit goes on with it."""
    before = r"(?<![^\W_])" if answer[0].isalnum() else ""
    if answer[0].isdigit():
        before += r"(?<!\.)"
    after = r"(?![^\W_])" if answer[-1].isalnum() else ""
    if answer[-1].isdigit():
        after += r"(?!\.\d)"
    return before + re.escape(answer) + after


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
