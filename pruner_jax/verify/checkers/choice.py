r"""Multiple choice: the answer is the letter of the right option, or its full text.

The gold answer may be the letter ("B"), the text, or both ("(B) Paris"). ``columns["choices"]``, a
list of texts or a mapping from letters to texts, connects the two where the gold answer has only
one of them. Accepted are B, (B), B., \text{B}, B) Paris, (B) Paris, Paris; case is ignored.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

from pruner_jax.types import Problem, Verdict

_LABELLED = re.compile(r"\(([A-Za-z])\)\s*(.*)|([A-Za-z])(?:[).:]\s*(.*))?", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit)\{([^{}]*)\}")


def check(problem: Problem, text: str, answer: str) -> Verdict | tuple[Verdict, str]:
    """By letter where both have one, else by text. An answer that is no option is UNPARSED."""
    options = _options(problem.columns.get("choices"))
    gold_letter, gold_text = _complete(*_read(problem.answer), options)
    letter, said = _complete(*_read(answer), options)
    if options and letter not in options and said not in options.values():
        return Verdict.UNPARSED, f"{answer!r:.100} is none of the options"
    if letter and gold_letter:
        return Verdict.CORRECT if letter == gold_letter else Verdict.WRONG
    return Verdict.CORRECT if said and said == gold_text else Verdict.WRONG


def _options(choices: Any) -> dict[str, str]:
    if choices is None:
        return {}
    pairs = (
        choices.items() if isinstance(choices, Mapping) else zip(string.ascii_uppercase, choices)
    )
    return {str(letter).strip().upper(): _plain(str(said)) for letter, said in pairs}


def _read(answer: str) -> tuple[str, str]:
    """(letter, text) of an answer, either may be empty."""
    answer = _WRAPPED.sub(r"\1", answer).strip().strip("$*").strip()
    found = _LABELLED.fullmatch(answer)
    if not found:
        return "", _plain(answer)
    letter, said = found.group(1) or found.group(3), found.group(2) or found.group(4)
    return letter.upper(), _plain(said or "")


def _complete(letter: str, said: str, options: Mapping[str, str]) -> tuple[str, str]:
    """Look up the missing one of letter and text among the options."""
    if letter and not said:
        return letter, options.get(letter, "")
    if said and not letter:
        return next((key for key, option in options.items() if option == said), ""), said
    return letter, said


def _plain(said: str) -> str:
    return " ".join(said.split()).strip(" .").casefold()
