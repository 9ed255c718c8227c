r"""What a small second model learns on the testbed: the answer from a question and a thought.

Holds the sums of `last_digit`, each together with a thought about it, as an expander is asked:

    Find the last digit of the sum: C7 A4 F9.

     C7=7 A4=1 F9=…
    \boxed{0}

The thoughts are whole traces, single passes, traces of which steps are missing, ends of passes, or
empty; in many the literal answers are masked, so that the last step is the model's own to do. What
is missing beyond that it cannot know, and alone it shall stay near chance.

Takes ``Options`` and a split, gives ``list[Problem]`` with a thought of its own for every problem,
and the tokenizer folder of the tiny expander, which is not the tiny reasoner's. Leaves out what
sums are and which set they belong to (`last_digit`).
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from pathlib import Path

import numpy as np

from pruner_jax.expansion import PROMPT, ask, mask
from pruner_jax.problems import last_digit
from pruner_jax.types import Problem

KINDS = ("trace", "pass", "thinned", "end", "empty")
MASK = "…"
STEP = re.compile(r" [A-H]\d=\d(?: check=\d)*| again")


@dataclasses.dataclass(frozen=True)
class Options(last_digit.Options):
    """Which sums there are, how much their traces overthink, and what is made of these."""

    thoughts: int = 1
    """Thoughts about each sum; each makes a problem."""
    shares: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict(zip(KINDS, (0.3, 0.3, 0.2, 0.17, 0.03)))
    )
    """Shares of the kinds of thought. trace: as the reasoner's. pass: one pass, nothing checked.
    thinned: a trace that lacks steps. end: the last steps of a pass. empty: none."""
    masked: float = 0.6
    """Share of the thoughts whose literal answers are masked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.shares) - set(KINDS) or abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(
                f"shares={self.shares}: must be shares of {', '.join(KINDS)} that add up to 1"
            )
        if self.thoughts < 1:
            raise ValueError(f"thoughts={self.thoughts}: must be 1 or more")
        if not 0.0 <= self.masked <= 1.0:
            raise ValueError(f"masked={self.masked}: must be a share in [0, 1]")


def load(options: Options, split: str) -> list[Problem]:
    """The sums of one split with their thoughts; ``columns`` also holds the ``thought``."""
    sums = last_digit.load(options, split)
    return [_with_thought(p, number, options) for number in range(options.thoughts) for p in sums]


def _with_thought(problem: Problem, number: int, options: Options) -> Problem:
    rng = np.random.default_rng([options.seed, number, zlib.crc32(problem.id.encode())])
    thought = _thought(problem, rng, options)
    if rng.random() < options.masked:
        thought = mask(thought, problem.answer, MASK)
    return dataclasses.replace(
        problem,
        id=problem.id.replace("last_digit/", "last_digit_expansion/") + f"#{number}",
        question=ask(PROMPT, problem.question, thought),
        source="last_digit_expansion",
        columns={**problem.columns, "thought": thought},
    )


def _thought(problem: Problem, rng: np.random.Generator, options: Options) -> str:
    shares = options.shares
    kind = str(rng.choice(list(shares), p=list(shares.values())))
    bare = dataclasses.replace(options, slip=0.0, checks=0.0, second_pass=0.0, direct=0.0)
    of = bare if kind in ("pass", "end") else dataclasses.replace(options, direct=0.0)
    thought = last_digit.trace(problem, rng, of).partition(last_digit.TAGS[1])[0]
    steps = STEP.findall(thought)
    if kind == "thinned":
        share = rng.random()
        return "".join(step for step in steps if rng.random() < share)
    if kind == "end":
        return "".join(steps[-int(rng.integers(1, len(steps) + 1)) :])
    return "" if kind == "empty" else thought


def trace(problem: Problem, rng: np.random.Generator, options: Options) -> str:
    """What is written: the box."""
    return f"\\boxed{{{problem.answer}}}"


PIECES = (
    *("user", "assistant", "\n", "\\boxed{", "}", MASK, "=" + MASK),
    *("Find", " the", " last", " digit", " of", " sum", ":", "."),
    *(" " + label for label in last_digit.LABELS),
    *last_digit.DIGITS,
    *("=" + digit for digit in last_digit.DIGITS),
    *(" check", " again"),
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def write_tokenizer(folder: str | Path) -> None:
    """The tokenizer folder of the tiny expander: other ids, a mark for what is masked, and a
    template that opens no thought."""
    last_digit.write_tokenizer(folder, PIECES, CHAT_TEMPLATE)
