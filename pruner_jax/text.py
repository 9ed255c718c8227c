"""Text and tokens: prompts are rendered and encoded here, responses decoded and cut at the thought.

Takes a Hugging Face tokenizer folder and `Problem`s, gives `Prompts`. One rendering serves
sampling, training and evaluation. Token in, token out: a response is only ever decoded, never
encoded again, so its length is a count of generated ids. Left out: the model, and what an answer is
(see `verify`).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruner_jax.types import Problem, Prompts, Purpose

# Whoever imports transformers first would be told that there is no PyTorch, which nothing wants.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

# transformers' PreTrainedTokenizerFast. Under TYPE_CHECKING the reader of settings would import it
# for every --help, half a second.
Tokenizer = Any


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """How a problem becomes a prompt, and which tags enclose the thought."""

    system: str | None = None
    """System message. Replaces that of a source that brings its own; None leaves it as it is."""

    instruction: str = ""
    """Appended to the question, after one space unless it begins with white space of its own, e.g.
    "Please reason step by step, and put your final answer within \\boxed{}."."""

    limit_sentence: str = ""
    """Sentence with "{limit}" that tells the model its token limit; stands at the end of the system
    message and is rendered anew for every limit. Empty: the model is not told."""

    template: str = "auto"
    """chat: the tokenizer's chat template. plain: the setting below, even where there is a chat
    template (base models often carry one that they were never trained on). auto: chat if any."""

    plain: str = "{question}"
    """Plain prompt, with "{question}" in it and, if there is a system message, "{system}"."""

    chat_template_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Variables for the chat template, e.g. {"enable_thinking": true}."""

    examples: list[dict[str, str]] = dataclasses.field(default_factory=list)
    """Worked examples, each {question: ..., response: ...}, which a method may show before the
    question while it samples, and an evaluation while it measures (few-shot)."""

    stop: list[str] = dataclasses.field(default_factory=list)
    """Strings that end a response besides the end tokens, for base models that go on with a next
    question. It is cut before the first one, and gets an end token that does not train. A token
    that holds the end of the answer and the beginning of the string goes too, so take a string that
    begins where a token does: "Question:", not "\\n\\nQuestion:", as "}\\n\\n" may be one token."""

    think_open: str = "<think>"
    """Tag that opens the thought."""

    think_close: str = "</think>"
    """Tag that closes the thought; what follows is the answer."""

    def __post_init__(self) -> None:
        if self.template not in ("auto", "chat", "plain"):
            raise ValueError(f"text.template is {self.template!r}; allowed: auto, chat, plain")
        if self.limit_sentence and "{limit}" not in self.limit_sentence:
            raise ValueError(
                f'text.limit_sentence must contain "{{limit}}", found {self.limit_sentence!r}'
            )
        if "{question}" not in self.plain:
            raise ValueError(f'text.plain must contain "{{question}}", found {self.plain!r}')
        for example in self.examples:
            if set(example) != {"question", "response"}:
                raise ValueError(
                    f"text.examples: each is {{question: ..., response: ...}}, found {example}"
                )
        if not all(self.stop):
            raise ValueError(f"text.stop is {self.stop}; allowed: strings that are not empty")
        if not self.think_open or not self.think_close or self.think_open == self.think_close:
            raise ValueError(
                "text.think_open and text.think_close must be two different non-empty tags, found "
                f"{self.think_open!r} and {self.think_close!r}"
            )


# -- the tokenizer ---------------------------------------------------------------------------------


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder, from its ``tokenizer.json`` exactly as it stands.

    Never through the class that ``tokenizer_config.json`` names: some published folders
    (R1-Distill-Qwen among them) name one whose constructor would build another tokenizer than the
    stored one.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{folder} has no tokenizer.json; only fast tokenizers are read. Save the folder's "
            "tokenizer with AutoTokenizer.from_pretrained(...).save_pretrained(...) first"
        )
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # a broken file shows as whatever the parser stumbled on
        raise ValueError(
            f"{folder / 'tokenizer.json'}: this, or tokenizer_config.json beside it, is broken "
            f"({type(error).__name__}: {error}); copy the tokenizer's files again"
        ) from error


def encode(tokenizer: Tokenizer, text: str, *, specials: bool = False) -> np.ndarray:
    """Token ids of a text, int32 [T].

    Without ``specials`` nothing is added, which is right for chat templates: they write their BOS
    as text. With it the tokenizer adds what it puts before a plain text (its BOS, once), but never
    a final EOS.
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    specials = specials and not (bos and text.startswith(bos))
    # Not verbose: whether a prompt fits is checked against the model's context, by name.
    ids = tokenizer.encode(text, add_special_tokens=specials, verbose=False)
    if specials and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(eos):
        ids = ids[:-1]
    return np.asarray(ids, np.int32)


def decode(tokenizer: Tokenizer, tokens: Sequence[int] | np.ndarray) -> str:
    """Text of token ids, nothing skipped and nothing tidied (tags may be special tokens)."""
    ids = [int(token) for token in tokens]
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def end_token_ids(
    tokenizer: Tokenizer, generation_config: Mapping[str, Any] | None
) -> tuple[int, ...]:
    """Every id that ends a response, sorted.

    Those of the generation config, the tokenizer's EOS, and the token with which the chat template
    closes an assistant turn.
    """
    configured = (generation_config or {}).get("eos_token_id")
    ids = set(configured) if isinstance(configured, (list, tuple)) else {configured}
    ids |= {tokenizer.eos_token_id, _end_of_turn(tokenizer)}
    ids = {int(i) for i in ids if i is not None}
    if not ids:
        raise ValueError(
            "no end token: the generation config has no eos_token_id, the tokenizer no eos_token "
            "and no chat template that closes a turn. Set eos_token in tokenizer_config.json"
        )
    return tuple(sorted(ids))


def end_token_id(tokenizer: Tokenizer, options: TextOptions) -> int | None:
    """The id that a written response ends with: what closes an assistant's turn in the chat
    template, else the tokenizer's EOS; None where there is neither."""
    closing = _end_of_turn(tokenizer) if uses_chat(tokenizer, options) else None
    return tokenizer.eos_token_id if closing is None else closing


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    """First token after an assistant's words in the chat template, if it is an added token."""
    if not tokenizer.chat_template:
        return None
    said = "Fourteen."
    turns = [{"role": "user", "content": "7+7?"}, {"role": "assistant", "content": said}]
    tail = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(said)[2].lstrip()
    ids = encode(tokenizer, tail)
    return int(ids[0]) if len(ids) and int(ids[0]) in tokenizer.added_tokens_decoder else None


# -- prompts ---------------------------------------------------------------------------------------


def uses_chat(tokenizer: Tokenizer, options: TextOptions) -> bool:
    """Whether prompts go through the tokenizer's chat template."""
    if options.template == "chat" and not tokenizer.chat_template:
        raise ValueError(
            "text.template is 'chat' but the tokenizer has no chat template; "
            "use 'plain' and set text.plain"
        )
    return options.template != "plain" and bool(tokenizer.chat_template)


def render(
    tokenizer: Tokenizer,
    problem: Problem,
    options: TextOptions,
    limit: int,
    *,
    note: str = "",
    examples: int = 0,
) -> str:
    """The prompt as text, up to where the model takes over.

    ``limit``: most response tokens. ``note`` is appended to the question like the instruction (a
    budget). So many of the options' worked examples come before it.
    """
    if examples > len(options.examples):
        raise ValueError(
            f"prompts are to show {examples} worked examples, but text.examples has "
            f"{len(options.examples)}; give more, or lower the number (of the method, "
            "monitor.examples or test.examples)"
        )
    shown = options.examples[:examples]
    messages = _messages(problem, options, limit)
    messages[-1]["content"] = _append(messages[-1]["content"], note)
    if not uses_chat(tokenizer, options):
        worked = [
            _render_plain(
                problem,
                [{"role": "user", "content": _append(e["question"], options.instruction)}],
                dataclasses.replace(options, plain=options.plain.replace("{system}", "")),
            )
            + e["response"]
            for e in shown
        ]
        return "\n\n".join([*worked, _render_plain(problem, messages, options)])
    turns = [
        turn
        for e in shown
        for turn in (
            {"role": "user", "content": _append(e["question"], options.instruction)},
            {"role": "assistant", "content": e["response"]},
        )
    ]
    first = 1 if messages[0]["role"] == "system" else 0
    messages[first:first] = turns
    known = set(re.findall(r"\w+", tokenizer.get_chat_template()))
    unknown = set(options.chat_template_kwargs) - known
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"text.chat_template_kwargs: the chat template does not use {names}")
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options.chat_template_kwargs
        )
    except TemplateError as error:
        raise ValueError(
            f"problem {problem.id!r}: the chat template refuses the roles "
            f"{[m['role'] for m in messages]} ({error}); if it knows no system message, leave "
            "text.system and text.limit_sentence empty and use text.instruction"
        ) from error


def _messages(problem: Problem, options: TextOptions, limit: int) -> list[dict[str, str]]:
    """The chat: a system message if any, the source's turns or the question, the instruction."""
    given = problem.messages or ({"role": "user", "content": problem.question},)
    turns = [{"role": m["role"], "content": m["content"]} for m in given]
    if turns[-1]["role"] != "user":
        raise ValueError(
            f"problem {problem.id!r}: its last message must be the user's, "
            f"found {turns[-1]['role']!r}"
        )
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    if options.system is not None:
        system = options.system
    sentence = options.limit_sentence.replace("{limit}", str(limit))
    system = " ".join(part for part in (system, sentence) if part)
    turns[-1]["content"] = _append(turns[-1]["content"], options.instruction)
    return ([{"role": "system", "content": system}] if system else []) + turns


def _append(question: str, instruction: str) -> str:
    space = "" if not instruction or instruction[0].isspace() else " "
    return question + space + instruction


def _render_plain(
    problem: Problem, messages: Sequence[Mapping[str, str]], options: TextOptions
) -> str:
    """Fill `TextOptions.plain`; everything that was asked for has to find its place in it."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    if len(messages) > (2 if system else 1):
        raise ValueError(
            f"problem {problem.id!r} is a chat of {len(messages)} messages, which a plain prompt "
            "cannot hold; it needs a tokenizer with a chat template"
        )
    if system and "{system}" not in options.plain:
        raise ValueError(
            f'text.plain is {options.plain!r}; put "{{system}}" in it, because text.system, '
            "text.limit_sentence or the source gives a system message"
        )
    parts = {"{question}": messages[-1]["content"], "{system}": system}
    return re.sub(r"\{question\}|\{system\}", lambda m: parts[m.group()], options.plain)


def make_prompts(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    options: TextOptions,
    *,
    limit: int,
    purpose: Purpose,
    visit_P: np.ndarray | int,
    notes: Sequence[str] | None = None,
    examples: int = 0,
) -> Prompts:
    """Render and encode P problems.

    ``limit`` is the token limit of the round (it may stand in the prompt); ``visit_P`` counts
    earlier visits to each problem. No prompt is cut. ``notes`` (one for each problem) and
    ``examples``: see `render`.
    """
    plain = not uses_chat(tokenizer, options)
    text = tuple(
        render(tokenizer, problem, options, limit, note=note, examples=examples)
        for problem, note in zip(problems, notes or [""] * len(problems))
    )
    tokens = tuple(encode(tokenizer, t, specials=plain) for t in text)
    for problem, ids in zip(problems, tokens):
        if len(ids) == 0:
            raise ValueError(f"the prompt of problem {problem.id!r} has no tokens; see text.plain")
    visits = np.broadcast_to(np.asarray(visit_P, np.int32), (len(text),)).copy()
    return Prompts(tuple(problems), text, tokens, Purpose(purpose), visits)


# -- thought and answer ----------------------------------------------------------------------------


def opens_thought(prompt_text: str, options: TextOptions) -> bool:
    """Whether the prompt ends inside a thought that it opened itself, as newer R1 templates do."""
    return prompt_text.rstrip().endswith(options.think_open)


def tag_ids(tokenizer: Tokenizer, tag: str) -> tuple[int, ...]:
    """The ids that spell a tag when it stands alone: what to write in order to force it."""
    return tuple(int(i) for i in encode(tokenizer, tag))


def tag_spellings(tokenizer: Tokenizer, tag: str) -> tuple[tuple[int, ...], ...]:
    """Per place of the tag's token sequence, the ids that may stand there: what to look for.

    A tag that is one token has one spelling. Where it takes several, its edges merge with their
    neighbours (".</", "think", ">\\n\\n" in Qwen2.5), so any token that ends (first place) or
    begins (last place) with the right characters counts.
    """
    ids = tag_ids(tokenizer, tag)
    if len(ids) == 1:
        return (ids,)
    first, last = decode(tokenizer, ids[:1]).strip(), decode(tokenizer, ids[-1:]).strip()
    pieces = [decode(tokenizer, [i]) for i in range(len(tokenizer))]
    starts = tuple(i for i, piece in enumerate(pieces) if piece.endswith(first))
    ends = tuple(i for i, piece in enumerate(pieces) if piece.startswith(last))
    return (starts, *((i,) for i in ids[1:-1]), ends)


def thinking_lengths(
    tokens_BT: np.ndarray,
    length_B: np.ndarray,
    close_ids: Sequence[int | Sequence[int]],
    opened: bool | np.ndarray,
    open_ids: Sequence[int | Sequence[int]] = (),
) -> np.ndarray:
    """How many ids of each response belong to its thought, int32 [B].

    Up to and including the first closing tag; the whole length where a thought never closes; 0
    where none was ever opened. ``opened`` (bool or [B]): the prompt opened it, so it runs from
    token 0. ``close_ids`` and ``open_ids``: `tag_ids`, or better `tag_spellings` (each place an id
    or several). A closing tag proves a thought, whoever opened it; without ``open_ids`` it is the
    only proof besides ``opened``.
    """
    length_B = np.asarray(length_B, np.int32)
    close_B = _first_match(tokens_BT, length_B, close_ids)
    opened_B = np.broadcast_to(np.asarray(opened, bool), length_B.shape)
    if open_ids:
        opened_B = opened_B | (_first_match(tokens_BT, length_B, open_ids) >= 0)
    unclosed_B = np.where(opened_B, length_B, 0)
    return np.where(close_B >= 0, close_B, unclosed_B).astype(np.int32)


def _first_match(
    tokens_BT: np.ndarray, length_B: np.ndarray, sequence: Sequence[int | Sequence[int]]
) -> np.ndarray:
    """Index just past the first occurrence of the sequence inside each row, or -1."""
    tokens_BT = np.asarray(tokens_BT)
    n, (rows, width) = len(sequence), tokens_BT.shape
    if n == 0:
        raise ValueError("a tag needs at least one token id")
    if width < n:
        return np.full(rows, -1)
    starts = width - n + 1
    hit_BT = np.arange(n, width + 1) <= length_B[:, None]
    for place, allowed in enumerate(sequence):
        hit_BT = hit_BT & np.isin(tokens_BT[:, place : place + starts], allowed)
    return np.where(hit_BT.any(axis=1), hit_BT.argmax(axis=1) + n, -1)


def split_thought(text: str, options: TextOptions, opened: bool) -> tuple[str, str]:
    """(thought, answer) of a response's text, tags left out; the rule of `thinking_lengths`."""
    thought, close, answer = text.partition(options.think_close)
    if not close and not opened and options.think_open not in text:
        return "", text
    before, tag, inside = thought.partition(options.think_open)
    return (before + inside if tag else thought), answer
