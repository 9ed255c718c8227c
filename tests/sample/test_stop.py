"""Strings that end a row: found wherever tokens begin, whenever the host looks."""

from __future__ import annotations

import numpy as np
import pytest
from small import END, run, same
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pruner_jax.sample.records import Stop
from pruner_jax.types import Origin


def digits(tokens):
    """Two characters a token, an end token left out; so a string can begin within a token."""
    ended = len(tokens) and tokens[-1] in END
    return "".join(f"{i:02d}" for i in (tokens[:-1] if ended else tokens))


@pytest.fixture(scope="module")
def whole():
    return run(decode=digits)[0]


def expected(row, strings):
    """The tokens before the first string to be complete, by the plainest way."""
    for n in range(1, len(row) + 1):
        begin = [digits(row[:n]).find(string) for string in strings]
        if max(begin) >= 0:
            return row[: min(b for b in begin if b >= 0) // 2]
    return None


@pytest.mark.parametrize(
    "options",
    [
        {"block": 1},
        {"rows": 1, "block": 5},
        {"rows": 6, "block": 3, "refill": 0.0},
        {"rows": 8, "block": 7, "refill": 1.0, "slot_multiple": 4, "slot_growth": 1.0},
        {"block": 1000, "slot_multiple": 48},
    ],
    ids=str,
)
@pytest.mark.parametrize("strings", [("31", "4544"), ("525", "21", "55")], ids=str)
def test_rows_end_before_the_string_however_they_are_decoded(whole, options, strings):
    stop, reported = Stop(strings, END[1], digits), {}
    found, _ = run(
        decode=digits,
        stop=stop,
        on_row=lambda row, tokens, finished: reported.update({row: (tokens, finished)}),
        **options,
    )
    stopped = 0
    for b, n in enumerate(whole.length_B):
        before, m = expected(whole.tokens_BT[b, :n], strings), found.length_B[b]
        tokens, logp = found.tokens_BT[b, :m], found.logp_BT[b, :m]
        if before is None:
            np.testing.assert_array_equal(tokens, whole.tokens_BT[b, :n])
            assert found.finished_B[b] == whole.finished_B[b]
        else:
            stopped += 1
            np.testing.assert_array_equal(tokens, [*before, END[1]])
            assert found.finished_B[b] and found.text[b] == digits(before)
            assert found.origin_BT[b, m - 1] == Origin.FORCED and np.isnan(logp[-1])
            np.testing.assert_allclose(logp[:-1], whole.logp_BT[b, : m - 1], atol=1e-5, rtol=0)
            assert not found.tokens_BT[b, m:].any() and not found.origin_BT[b, m:].any()
        np.testing.assert_array_equal(reported[b][0], tokens)
        assert reported[b][1] == found.finished_B[b]
    assert 0 < stopped < len(found)


def test_strings_that_never_come_change_nothing(whole):
    same(whole, run(decode=digits, stop=Stop(("x",), END[0], digits), block=4)[0])


@pytest.fixture(scope="module")
def bytes_and_words():
    """A tokenizer as base models have it: bytes, and a few merges that cross the answer's end."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words, merges = sorted(level.alphabet()), []
    for word in ("}\n\n", "\n\n", "Question"):
        said = level.pre_tokenize_str(word)[0][0]
        for n in range(2, len(said) + 1):
            if said[:n] not in words:
                merges.append((said[: n - 1], said[n - 1]))
                words.append(said[:n])
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    made.pre_tokenizer = level
    made.decoder = decoders.ByteLevel()
    return made


@pytest.mark.parametrize(
    ("text", "string", "left"),
    [
        ("\\boxed{10}\n\nQuestion: 2 + 2", "Question:", "\\boxed{10}\n\n"),
        ("\\boxed{10}\n\nQuestion: 2 + 2", "\n\nQuestion:", "\\boxed{10"),  # its brace goes too
        ("prix: 3 é\n\nQuestion:", "Question:", "prix: 3 é\n\n"),
        ("答え 問題: 問題:", "問題:", "答え "),
        ("no next one", "Question:", None),
    ],
)
def test_a_base_models_text_is_cut_at_the_token(bytes_and_words, text, string, left):
    tokens = np.array(bytes_and_words.encode(text).ids)
    stop = Stop((string,), -1, lambda ids: bytes_and_words.decode(list(map(int, ids))))
    complete = next(
        (n for n in range(len(tokens) + 1) if string in stop.decode(tokens[:n])), len(tokens) + 1
    )
    for seen in range(complete):  # whatever the blocks were
        for length in range(seen, len(tokens) + 1):
            kept = stop.cut(tokens[:length], seen)
            if left is None or length < complete:
                assert kept is None
            else:
                assert stop.decode(tokens[:kept]) == left
