"""The testbed: last-digit sums whose traces overthink by construction.

Holds the questions, the supervised traces, programs for PaD, the tokenizer folder of the tiny
models, and what makes overthinking countable. A question lists k labelled digits; a trace adds them
up, one step a term:

    Find the last digit of the sum: C7 A4 F9.
    <think> C7=7 A4=3 check=1 F9=0 again C7=7 check=7 A4=1 check=1 F9=0 check=0</think>
    \\boxed{0}

A step is a label, its digit copied, and the running sum mod 10 (the first step is an echo, so that
all steps look alike; a model of this size needs that to learn the task at all). ``check`` says the
sum of the step once more and repairs a slip, ``again`` starts a second, careful pass over the whole
sum. The shortest answer has ``minimal_tokens(k)`` tokens; ``redundancy`` counts the rest.

Takes ``Options`` and a split, gives ``list[Problem]``. Leaves out sampling, training and the noise
itself: ``noise_rule`` only says, in token ids, where an environment would put it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pruner_jax.types import Problem

LABELS = "ABCDEFGH"
SPLITS = ("train", "monitor", "test")
TARGETS = ("answer", "program", "reading")
QUESTION = "Find the last digit of the sum:{terms}."
OTHER_WORDS = "Use the total of{terms}.\nFind the last digit."
READINGS = 8

# The hash buckets of each split. A sum's bucket depends on its text in QUESTION alone, so the three
# sets share no sum whatever the sizes, seeds, ranges and words of two runs are.
BUCKETS = {"train": range(0, 12), "monitor": range(12, 14), "test": range(14, 16)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Which questions there are, and how much their traces overthink."""

    train: int = 4000
    """Questions to train on."""
    monitor: int = 200
    """Questions that guards, controllers and the checkpoint rule look at."""
    test: int = 400
    """Questions that every reported number comes from."""
    min_terms: int = 2
    """Fewest digits in a sum (the difficulty of the easiest questions)."""
    max_terms: int = 6
    """Most digits in a sum; at most 8, for there are 8 labels."""
    seed: int = 0
    """Which questions are drawn."""
    slip: float = 0.1
    """Share of steps whose first value is wrong in a trace; a check repairs it."""
    checks: float = 0.6
    """Chance of one more check, after each value of the first pass (a geometric number)."""
    max_checks: int = 3
    """Most checks of one step."""
    second_pass: float = 0.85
    """Share of traces that go over the whole sum a second time, with one check at each step."""
    direct: float = 0.0
    """Share of two-term traces with an empty thought (for methods that may skip thinking)."""
    noise: float = 0.0
    """Noisy variant: chance that the environment replaces a step's first value while sampling."""
    target: str = "answer"
    """What a response is. answer: a thought and the digit. program: a function solution() that
    returns it (PaD). reading: the terms, read out several times (a first lesson for models made
    from nothing, which teaches neither sums nor programs)."""
    mistakes: float = 0.0
    """Share of the traces with a mistake, where the target is program (a noisy teacher)."""
    transfer: bool = False
    """Ask for the same sums in words that a model trained on the usual ones has not seen."""
    reworded: float = 0.0
    """Share of the questions in these other words, where not all are (transfer)."""

    def __post_init__(self) -> None:
        if not 2 <= self.min_terms <= self.max_terms <= len(LABELS):
            raise ValueError(
                f"min_terms={self.min_terms}, max_terms={self.max_terms}: need "
                f"2 <= min_terms <= max_terms <= {len(LABELS)}"
            )
        if self.target not in TARGETS:
            raise ValueError(f"target={self.target!r}: must be one of {', '.join(TARGETS)}")
        for name in ("slip", "checks", "second_pass", "direct", "noise", "mistakes", "reworded"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: must be a share in [0, 1]")
        if self.mistakes and self.target != "program":
            raise ValueError(
                f"mistakes={self.mistakes}: are made in programs; set target to program, or use "
                "slip, the share of wrong steps in a thought"
            )
        if self.max_checks < (self.slip > 0):
            raise ValueError(
                f"max_checks={self.max_checks}: must be >= 1 where slip={self.slip} > 0, "
                "for a check repairs a slip"
            )
        for split in SPLITS:
            if getattr(self, split) < 0:
                raise ValueError(f"{split}={getattr(self, split)}: must be >= 0")


def load(options: Options, split: str) -> list[Problem]:
    """The problems of one split: distinct questions, the difficulties taking turns.

    ``columns`` of each problem holds its ``labels`` (str) and ``digits`` (tuple of int).
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([options.seed, SPLITS.index(split)])
    size, seen, problems = getattr(options, split), set(), []
    span = options.max_terms - options.min_terms + 1
    fruitless = 0
    while len(problems) < size:
        problem = _draw(rng, options.min_terms + len(problems) % span)
        bucket = zlib.crc32(problem.question.encode()) % 16
        problem = _posed(problem, options)
        if problem.id in seen or bucket not in BUCKETS[split]:
            fruitless += 1
            if fruitless > 10_000:
                raise ValueError(
                    f"{split}={size}: only {len(problems)} distinct questions were found; lower "
                    f"{split} or raise min_terms={options.min_terms} (two terms: 5600 questions)"
                )
            continue
        fruitless = 0
        seen.add(problem.id)
        problems.append(problem)
    return problems


def _draw(rng: np.random.Generator, terms: int) -> Problem:
    labels = "".join(rng.permutation(list(LABELS))[:terms])
    digits = tuple(int(d) for d in rng.integers(10, size=terms))
    pairs = [f"{label}{digit}" for label, digit in zip(labels, digits)]
    return Problem(
        id="last_digit/" + "".join(pairs),
        question=QUESTION.format(terms="".join(" " + pair for pair in pairs)),
        answer=str(sum(digits) % 10),
        checker="math",
        difficulty=float(terms),
        source="last_digit",
        columns={"labels": labels, "digits": digits},
    )


def _posed(problem: Problem, options: Options) -> Problem:
    """The problem in other words, or for another kind of response."""
    if options.target == "program":
        problem = dataclasses.replace(problem, checker="program")
    chance = zlib.crc32(b"words of " + problem.id.encode()) / 2**32  # of this sum, in all runs
    if options.transfer or chance < options.reworded:
        pairs = zip(problem.columns["labels"], problem.columns["digits"])
        terms = "".join(f" {label}{digit}" for label, digit in pairs)
        question = OTHER_WORDS.format(terms=terms)
        name = problem.id.replace("last_digit/", "last_digit/transfer/")
        problem = dataclasses.replace(problem, id=name, question=question)
    return problem


# --- traces ---------------------------------------------------------------------------------------


def minimal_tokens(terms: int) -> int:
    """Tokens of the shortest answer with a thought: 3 a step, then tag, newline, box and end."""
    return 3 * terms + 6


def trace(problem: Problem, rng: np.random.Generator, options: Options) -> str:
    """A supervised answer: the thought (its ``<think>`` stands in the prompt), its end, the box.

    Where the target is another: the end of an empty thought, and a program, wrong by chance, or the
    terms of the question ``READINGS`` times.
    """
    if options.target == "program":
        return "</think>\n" + program(problem, rng, bool(rng.random() < options.mistakes))
    labels, digits = problem.columns["labels"], problem.columns["digits"]
    if options.target == "reading":
        terms = "".join(f" {label}{digit}" for label, digit in zip(labels, digits))
        return "</think>\n" + " again".join([terms] * READINGS)
    thought = ""
    if not (len(digits) == 2 and rng.random() < options.direct):
        thought = _pass(labels, digits, rng, options)
        if rng.random() < options.second_pass:
            thought += " again" + _pass(labels, digits, rng, options, careful=True)
    return f"{thought}</think>\n\\boxed{{{problem.answer}}}"


def _pass(
    labels: str,
    digits: Sequence[int],
    rng: np.random.Generator,
    options: Options,
    careful: bool = False,
) -> str:
    """One pass over the sum; ``careful``: one check a step, else by chance and after each slip."""
    text, total = "", 0
    for label, digit in zip(labels, digits):
        total = (total + digit) % 10
        slip = rng.random() < options.slip
        first = (total + int(rng.integers(1, 10))) % 10 if slip else total
        count = 1 if careful else int(slip) + int(rng.geometric(1.0 - options.checks)) - 1
        count = min(count, options.max_checks)
        text += f" {label}{digit}={first}" + f" check={total}" * count
    return text


@dataclasses.dataclass(frozen=True)
class Redundancy:
    """What a thought holds beyond the one pass it needs."""

    checks: int
    second_passes: int


def redundancy(text: str) -> Redundancy:
    """Counts the re-checks and second passes in the thought of a response."""
    thought = text.split("</think>")[0]
    return Redundancy(checks=thought.count(" check"), second_passes=thought.count(" again"))


@dataclasses.dataclass(frozen=True)
class NoiseRule:
    """Where the noisy variant strikes, as plain data for a force hook.

    Inside an open thought, a token that follows one of ``after`` (a copied digit) is a step's first
    value: with this ``probability`` it is replaced by one of ``values``, drawn uniformly.
    """

    after: tuple[int, ...]
    values: tuple[int, ...]
    probability: float


def noise_rule(options: Options) -> NoiseRule:
    """The noise of ``options`` in token ids of the testbed's tokenizer."""
    ids = {piece: index for index, piece in enumerate(VOCABULARY)}
    return NoiseRule(
        after=tuple(ids[d] for d in DIGITS),
        values=tuple(ids["=" + d] for d in DIGITS),
        probability=options.noise,
    )


# --- programs (PaD) -------------------------------------------------------------------------------

MISTAKES = ("digit", "skip", "operator", "modulo", "name", "type", "return", "syntax")
UNSPEAKABLE = ("divide", "loop", "module")  # the tokenizer below has no words for these


def program(problem: Problem, rng: np.random.Generator, wrong: bool | str = False) -> str:
    """A function ``solution()`` that computes the answer; no thought around it.

    ``wrong`` makes the teacher err: True picks one of ``MISTAKES``, a name picks that one. Every
    wrong program truly fails: a mistake that would leave the value right, such as skipping a zero,
    becomes a misread digit. By name there are further ones, ``UNSPEAKABLE``: a division by zero, a
    loop without an end, and a module that the sandbox does not have.
    """
    known = (*MISTAKES, *UNSPEAKABLE)
    if isinstance(wrong, str) and wrong not in known:
        raise ValueError(f"wrong={wrong!r}: must be a bool or one of {', '.join(known)}")
    labels, digits = problem.columns["labels"], problem.columns["digits"]
    mistake = str(rng.choice(MISTAKES)) if wrong is True else wrong
    at = int(rng.integers(len(digits)))
    harmless = {
        "skip": digits[at] == 0,
        "operator": 2 * digits[at] % 10 == 0,
        "modulo": sum(digits) < 10,
    }
    if mistake and harmless.get(mistake, False):
        mistake = "digit"
    values = list(digits)
    if mistake == "digit":
        values[at] = (values[at] + int(rng.integers(1, 10))) % 10
    if mistake == "type":
        values[at] = "..."  # left open
    adds = [f"total += {label}" for label in labels]
    if mistake == "skip":
        del adds[at]
    if mistake == "operator":
        adds[at] = f"total -= {labels[at]}"
    if mistake == "name":
        adds[at] = f"total += {rng.choice(sorted(set(LABELS) - set(labels)) or ['I'])}"
    lines = [f"{label} = {value}" for label, value in zip(labels, values)]
    lines += ["total = 0", *adds]
    if mistake == "loop":
        lines.append("while total >= 0: total += 10")
    if mistake == "module":
        lines.append("import fractions")
    if mistake != "return":
        divisor = {"modulo": "", "divide": " % 0"}.get(mistake, " % 10")
        lines.append("return total" + divisor)
    colon = "" if mistake == "syntax" else ":"
    return f"def solution(){colon}" + "".join("\n    " + line for line in lines)


# --- tokenizer ------------------------------------------------------------------------------------

DIGITS = tuple("0123456789")
PAD, END, TURN, UNKNOWN = "<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|unk|>"
SPECIAL = (PAD, TURN, END, UNKNOWN)
TAGS = ("<think>", "</think>")
# No piece is the beginning of another, so any sequence of pieces is read back as it was written:
# encode(decode(ids)) == ids.
PIECES = (
    *DIGITS,
    *(" " + label for label in LABELS),
    *("=" + digit for digit in DIGITS),
    *(" check", " again", "\n", "\\boxed{", "}"),
    *("Find", " the", " last", " digit", " of", " sum", ":", "."),
    *("system", "user", "assistant", "Use", " at", " most ", " tokens"),
    *("def", " solution()", "   ", " total", " = ", " +=", " -=", " return", " % 10", " I"),
)
VOCABULARY = (*SPECIAL, *TAGS, *PIECES)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n<think>' }}
{%- if enable_thinking is defined and enable_thinking is false -%}{{ '</think>\\n' }}{%- endif -%}
{%- endif -%}
"""


def write_tokenizer(
    folder: str | Path, pieces: Sequence[str] = PIECES, template: str = CHAT_TEMPLATE
) -> None:
    """Writes tokenizer, chat template and generation config as a Hugging Face folder holds them.

    The template opens ``<think>``, as R1's does; ``enable_thinking=False`` closes it at once.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ids = {piece: index for index, piece in enumerate((*SPECIAL, *TAGS, *pieces))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join(re.escape(piece) for piece in pieces)), behavior="isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    generation = {
        "eos_token_id": [ids[END], ids[PAD]],
        "pad_token_id": ids[PAD],
        "do_sample": True,
        "temperature": 1.0,
    }
    for name, content in (("tokenizer_config", config), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
