"""Where the answer stands in a response: boxes, and the looser rules of the original papers.

Takes the text in which an answer may stand (see `text.split_thought` for what that is) and gives
the answer as a string, or None. One pass over the text, so a degenerate response of a hundred
thousand braces costs milliseconds. Left out: comparing answers (see `checkers`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PIECE = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{)?|\\.|[{}]", re.DOTALL)
_BARE_IN_MATH = re.compile(r"([^$\n]{1,100}?)\s*(?:\$|\\\)|\\\])")
_BARE_WORD = re.compile(r"[^\s$]{1,200}(?<![.,;:])")
_PHRASE = re.compile(r"\banswer(?:\s+is\b|\s*[:=])\s*:?", re.IGNORECASE)


class Box(NamedTuple):
    """``text[start:stop]`` is the whole box, ``text[begin:end]`` what it holds."""

    start: int
    begin: int
    end: int
    stop: int


def extract(text: str, rule: str) -> str | None:
    """The answer in ``text`` under the rule ``VerifyOptions.answer``; None where there is none."""
    if rule == "anywhere":
        return _loose(text)
    boxes = find_boxes(text)
    box = boxes[-1 if rule == "last_boxed" else 0] if boxes else None
    return text[box.begin : box.end].strip() if box else None


def find_boxes(text: str) -> list[Box]:
    r"""Every complete ``\boxed`` or ``\fbox`` with an answer in it, by place.

    Braces nest, escaped ones do not count, ``\boxed 5`` is a box without braces. Left out are boxes
    that never close, empty ones, and those that hold nothing but another box.
    """
    boxes: list[Box] = []
    open_braces: list[re.Match[str]] = []
    for piece in _PIECE.finditer(text):
        token = piece.group()
        if piece.group(1) or token == "{":
            open_braces.append(piece)
        elif token == "}" and open_braces:
            opening = open_braces.pop()
            if opening.group(1):
                boxes.append(Box(opening.start(), opening.end(), piece.start(), piece.end()))
        elif token.startswith((r"\boxed", r"\fbox")):
            bare = _BARE_IN_MATH.match(text, piece.end()) or _BARE_WORD.match(text, piece.end())
            if bare:
                end = bare.end(bare.lastindex or 0)
                boxes.append(Box(piece.start(), piece.end(), end, end))
    boxes.sort()
    inner = [*boxes[1:], None]
    return [box for box, following in zip(boxes, inner) if _answers(text, box, following)]


def _answers(text: str, box: Box, following: Box | None) -> bool:
    """Whether a box holds something, and something besides the box that follows it."""
    if following is None or following.stop > box.end:
        return not text[box.begin : box.end].isspace() and box.end > box.begin
    around = text[box.begin : following.start] + text[following.stop : box.end]
    return bool(around.strip())


def _loose(text: str) -> str | None:
    """The last ``boxed``, closed or not, else what follows the last phrase that announces it."""
    place = text.rfind("boxed")
    if place >= 0:
        tail = "\\" + text[place:]  # the backslash may be missing
        boxes = find_boxes(tail)
        if boxes and boxes[0].start == 0:
            return tail[boxes[0].begin : boxes[0].end].strip()
        rest = re.sub(r"^\s*(?:\{\s*\}|\{)?", "", text[place + len("boxed") :])
        return re.split(r"[\n$]", rest, maxsplit=1)[0].strip() or None
    end = max((phrase.end() for phrase in _PHRASE.finditer(text)), default=None)
    if end is None:
        return None
    sentence = re.split(r"\n|\.\s", text[end:].lstrip(), maxsplit=1)[0]
    return sentence.strip(" \t*$.") or None
