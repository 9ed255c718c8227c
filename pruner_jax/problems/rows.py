"""A table's row becomes a problem: which column is the question, where the answer stands in it.

Shared by the sources that read tables (`file`, `tfds`). Takes rows as mappings with the place they
come from (named in every error), gives problems. Leaves out reading the table.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pruner_jax.types import Problem

# Part of a problem -> the columns where it is looked for, the first that the row has; a dot goes
# down into a nested column. What has no default is left out unless the settings name a column.
DEFAULTS: dict[str, tuple[str, ...]] = {
    "question": ("question", "problem", "prompt"),
    "answer": ("answer",),
    "id": (),
    "difficulty": (),
    "source": ("data_source",),
}
# verl's: data_source, prompt (a chat), ability, reward_model {style, ground_truth}, extra_info.
VERL = DEFAULTS | {"question": ("prompt",), "answer": ("reward_model.ground_truth",)}


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """How a row becomes a problem."""

    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Part of a problem: its column. Parts: question (text, or a chat of {role, content}), answer,
    id, difficulty (a number), source (name of the set in reports). Dots go down into nested
    columns: {answer: reward_model.ground_truth}. Where not named, the question is looked for in
    question, problem and prompt, the answer in answer; ids are row numbers. Rows in verl's format
    need nothing."""

    where: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keep only rows whose column has this value, or one of these: {data_source: [a, b]}."""

    cut: str = ""
    """Regular expression that is cut out of the question, e.g. an instruction appended to it."""

    answer_pattern: str = ""
    """Regular expression with one group: the answer is what its last match in the answer's column
    captures. GSM8K: '#### *(.+)'."""

    boxed: bool = False
    """The answer is the last \\boxed{} in the answer's column (a worked solution)."""

    checker: str = "math"
    """How answers to these problems are checked, see `verify`."""

    on_missing: str = "error"
    """What to do with a row that has no question or no answer. error: stop and name it. skip: leave
    it out; the count is printed."""

    unique: bool = False
    """Keep only the first row of each question; the count of the others is printed."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.columns) - set(DEFAULTS))
        if unknown:
            raise ValueError(
                f"columns has the unknown part {', '.join(unknown)}; allowed: {', '.join(DEFAULTS)}"
            )
        for name in ("cut", "answer_pattern"):
            try:
                pattern = re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}") from None
            if name == "answer_pattern" and self.answer_pattern and pattern.groups != 1:
                raise ValueError(f"answer_pattern must have one group, found {pattern.groups}")
        if self.answer_pattern and self.boxed:
            raise ValueError("answer_pattern and boxed both say where the answer is; set one")
        if self.on_missing not in ("error", "skip"):
            raise ValueError(f"on_missing is {self.on_missing!r}; allowed: error, skip")


# A row's number (the id of its problem, if no column gives one), the place that errors name, and
# the row itself.
Row = tuple[str, str, Mapping[str, Any]]


class Missing(ValueError):
    """A row has no question or no answer, be it empty or without a column."""


def to_problems(rows: Iterable[Row], options: RowOptions, split: str) -> list[Problem]:
    """The problems of a table's rows, those that `RowOptions.where` asks for."""
    problems, seen = [], set()
    skipped = repeated = 0
    first = ""
    for number, place, row in rows:
        try:
            if not wanted(row, options.where):
                continue
            problem = to_problem(row, options, number)
        except Missing as missing:
            if options.on_missing == "error":
                cure = "; problems.options.on_missing=skip leaves such rows out"
                raise ValueError(f"{place}: {missing}{cure}") from None
            first = first or f"{place}: {missing}"
            skipped += 1
            continue
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if options.unique and problem.question in seen:
            repeated += 1
            continue
        seen.add(problem.question)
        problems.append(problem)
    if skipped and not problems:
        raise ValueError(f"all {skipped} rows lack a question or an answer, beginning with {first}")
    if skipped:
        _say(f"{skipped} {split} rows have no question or no answer and were left out (on_missing)")
    if repeated:
        _say(f"{repeated} {split} rows repeat a question and were left out (unique)")
    return problems


def _say(what: str) -> None:
    print(f"problems: {what}", file=sys.stderr)


def wanted(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether a row has the values that ``where`` asks for; an absent column is an error."""
    for column, values in where.items():
        found, value = lookup(row, column)
        if not found:
            raise ValueError(f"where names the column {column!r}, but the row has {_names(row)}")
        if value not in (values if isinstance(values, list) else [values]):
            return False
    return True


def to_problem(row: Mapping[str, Any], options: RowOptions, number: str) -> Problem:
    """One row as a problem; ``number`` is its id where no column gives one."""
    defaults = VERL if isinstance(row.get("reward_model"), Mapping) else DEFAULTS
    part = {name: _part(row, name, options, defaults[name]) for name in DEFAULTS}
    question, messages = _question(part["question"])
    if options.cut:
        question = re.sub(options.cut, "", question)
        if messages:
            messages = (*messages[:-1], {**messages[-1], "content": question})
    if not question.strip():
        raise Missing("the question is empty")
    return Problem(
        id=number if part["id"] is None else str(part["id"]),
        question=question,
        answer=_answer(part["answer"], options),
        checker=options.checker,
        difficulty=_difficulty(part["difficulty"]),
        source="" if part["source"] is None else str(part["source"]),
        messages=messages,
        columns=dict(row),
    )


def _part(
    row: Mapping[str, Any], name: str, options: RowOptions, defaults: Sequence[str]
) -> Any | None:
    """The value of a problem's part; None where an optional part has no column."""
    named = options.columns.get(name)
    for column in (named,) if named else defaults:
        found, value = lookup(row, column)
        if found:
            return value
    if named or name in ("question", "answer"):
        looked = named or ", ".join(defaults)
        kind = Missing if name in ("question", "answer") else ValueError
        raise kind(
            f"no column for the {name} (looked for {looked}); the row has {_names(row)}. "
            f"Give it one, or name another with problems.options.columns.{name}"
        )
    return None


def lookup(row: Mapping[str, Any], column: str) -> tuple[bool, Any]:
    """(found, value) of a column; dots go down into nested ones."""
    if column in row:
        return True, row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head)
    return lookup(inner, rest) if dot and isinstance(inner, Mapping) else (False, None)


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(str(name) for name in row) or "no columns"


def _question(value: Any) -> tuple[str, tuple[Mapping[str, str], ...] | None]:
    """(question, chat): a chat of a single user turn is just a question."""
    if value is None:
        raise Missing("the question is empty")
    if isinstance(value, str):
        return value, None
    chat = isinstance(value, Sequence) and all(
        isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in value
    )
    if not chat or not value:
        raise ValueError(f"the question is neither text nor a chat: {str(value)[:80]!r}")
    messages = tuple({"role": turn["role"], "content": turn["content"]} for turn in value)
    if messages[-1]["role"] != "user":
        raise ValueError(f"the chat ends with the role {messages[-1]['role']!r}, not with the user")
    question = messages[-1]["content"]
    return question, (messages if len(messages) > 1 else None)


def _answer(value: Any, options: RowOptions) -> str:
    """The gold answer inside the answer's column."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) > 1:
            raise ValueError(f"there are {len(value)} answers, expected one: {str(value)[:80]}")
        value = value[0] if value else None
    text = "" if value is None else str(value).strip()
    if not text:
        raise Missing("the answer is empty")
    if options.answer_pattern:
        matches = re.findall(options.answer_pattern, text)
        if not matches:
            raise Missing(f"answer_pattern does not match {_tail(text)}")
        text = matches[-1].strip()
    elif options.boxed:
        content = last_boxed(text)
        if content is None:
            raise Missing(f"there is no \\boxed{{}} in {_tail(text)}")
        text = content.strip()
    if not text:
        raise Missing("the answer is empty")
    return text


def _tail(text: str) -> str:
    return repr(text if len(text) <= 80 else "..." + text[-77:])


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}`` whose braces close, or None."""
    for match in reversed(list(re.finditer(r"\\boxed\s*\{", text))):
        depth, escaped = 1, False
        for place in range(match.end(), len(text)):
            if not escaped:
                depth += {"{": 1, "}": -1}.get(text[place], 0)
            escaped = text[place] == "\\" and not escaped
            if depth == 0:
                return text[match.end() : place]
    return None


def _difficulty(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"the difficulty must be a number, found {value!r}") from None
