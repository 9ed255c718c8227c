"""What a second model is shown of a thought: the prompt, and masked answers.

Plain text in and out; used where a second model is asked (`run.second`) and where one is trained
(`problems.last_digit_expansion`). Leaves out models, tokens and grading.
"""

from __future__ import annotations

import re

PROMPT = "{question}\n\n{thought}"


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
