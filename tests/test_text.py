"""text: the prompts of R1-, Qwen- and Llama-like tokenizers, and the spans of their responses."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner_jax.text import (
    TextOptions,
    decode,
    encode,
    end_token_id,
    end_token_ids,
    load_tokenizer,
    make_prompts,
    opens_thought,
    render,
    split_thought,
    tag_ids,
    tag_spellings,
    thinking_lengths,
)
from pruner_jax.types import Problem, Purpose

# Chat templates in the manner of three families, written for these tests. The R1-like one carries
# its BOS as text, puts the system words straight behind it and opens the thought.
R1 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<|User|>{{ m.content }}"
    "{% else %}<|Assistant|>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
CORPUS = [
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "<think>\nFirst 7+7=14.\n</think>\n\nThe answer is 14.",
    "x.</think>\n y >= 3 and </div> <b> is html </think> 12 + 30 = 42",
    "a.</b>. b.</b>. c.</b>. d.</b>. e.</b>. f.</b>. g.</b>. h.</b>. i.</b>.",  # merges at edges
]


def build(template=None, specials=(), bos=None, eos=None, post_bos=False, tags=True):
    """A byte-level BPE tokenizer of about 350 ids, as Qwen and Llama 3 have it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS * 3, BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    raw.add_special_tokens([t for t in (*specials, bos, eos) if t])
    if tags:
        raw.add_tokens(
            [AddedToken("<think>", special=False), AddedToken("</think>", special=False)]
        )
    if post_bos:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A {eos}",
            special_tokens=[(bos, raw.token_to_id(bos)), (eos, raw.token_to_id(eos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=bos, eos_token=eos, chat_template=template
    )


@pytest.fixture(scope="module")
def r1():
    return build(R1, ["<|User|>", "<|Assistant|>"], bos="<s>", eos="</s>", post_bos=True)


@pytest.fixture(scope="module")
def qwen():
    return build(QWEN, ["<|im_start|>", "<|im_end|>"], eos="<|endoftext|>")


@pytest.fixture(scope="module")
def llama():
    return build(LLAMA, ["<|start|>", "<|end|>", "<|eot|>"], bos="<s>", eos="<|eos|>", tags=False)


@pytest.fixture(scope="module")
def base():
    return build(None, bos="<s>", eos="</s>", post_bos=True, tags=False)


SUM = Problem(id="sum-1", question="What is 7+7?", answer="14")
BOXED = TextOptions(instruction="Put it in \\boxed{}.")


# -- rendering -------------------------------------------------------------------------------------


def test_r1_prompt_has_one_bos_and_opens_the_thought(r1):
    text = render(r1, SUM, BOXED, limit=100)
    assert text == "<s><|User|>What is 7+7? Put it in \\boxed{}.<|Assistant|><think>\n"
    assert opens_thought(text, BOXED)
    prompts = make_prompts(r1, [SUM], BOXED, limit=100, purpose=Purpose.TRAIN, visit_P=0)
    assert (prompts.tokens[0] == r1.bos_token_id).sum() == 1
    assert decode(r1, prompts.tokens[0]) == text


def test_qwen_template_arguments(qwen):
    assert not opens_thought(render(qwen, SUM, TextOptions(), limit=9), TextOptions())
    no_thinking = TextOptions(chat_template_kwargs={"enable_thinking": False})
    text = render(qwen, SUM, no_thinking, limit=9)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens_thought(text, no_thinking)
    with pytest.raises(ValueError, match=r"use enable_thinkin$"):
        render(qwen, SUM, TextOptions(chat_template_kwargs={"enable_thinkin": False}), limit=9)


def test_limit_sentence_is_rendered_anew_for_every_limit(qwen):
    options = TextOptions(system="Solve {it}.", limit_sentence="Use at most {limit} tokens.")
    for limit in (4096, 3072):
        text = render(qwen, SUM, options, limit=limit)
        system = f"<|im_start|>system\nSolve {{it}}. Use at most {limit} tokens.<|im_end|>\n"
        assert text.startswith(system)


def test_limit_sentence_alone_makes_a_system_message(r1):
    options = TextOptions(limit_sentence="Stay within {limit} tokens.")
    assert render(r1, SUM, options, limit=8).startswith("<s>Stay within 8 tokens.<|User|>")


def test_messages_of_the_source(qwen):
    chat = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 7+7?"},
    )
    problem = Problem(id="c", question="And 7+7?", answer="14", messages=chat)
    kept = render(qwen, problem, TextOptions(instruction="\nBox it."), limit=5)
    assert "system\nBe brief.<|im_end|>" in kept and "user\nAnd 7+7?\nBox it.<|im_end|>" in kept
    assert "user\n1+1?<|im_end|>" in kept
    replaced = render(qwen, problem, TextOptions(system="Be long."), limit=5)
    assert "Be long." in replaced and "Be brief." not in replaced
    with pytest.raises(ValueError, match=r"'c' is a chat of 4 messages"):
        render(qwen, problem, TextOptions(template="plain", plain="{system}{question}"), limit=5)
    ends_wrong = Problem(id="w", question="", answer="", messages=chat[:3])
    with pytest.raises(ValueError, match=r"'w'.*last message.*'assistant'"):
        render(qwen, ends_wrong, TextOptions(), limit=5)


def test_a_template_without_system_role_is_named(llama):
    assert render(llama, SUM, BOXED, limit=5).startswith("<s><|start|>user<|end|>\n\nWhat is 7+7?")
    with pytest.raises(ValueError, match=r"sum-1.*text\.system"):
        render(llama, SUM, TextOptions(system="Hi"), limit=5)


def test_plain_prompts(base, qwen):
    options = TextOptions(plain="{system}\nQuestion: {question}\nThought:", system="Be {question}.")
    assert render(base, SUM, options, 5) == "Be {question}.\nQuestion: What is 7+7?\nThought:"
    with pytest.raises(ValueError, match=r"text\.plain .*\{system\}"):
        render(base, SUM, TextOptions(system="Hi"), 5)
    with pytest.raises(ValueError, match="no chat template"):
        render(base, SUM, TextOptions(template="chat"), 5)
    assert render(qwen, SUM, TextOptions(template="plain"), 5) == "What is 7+7?"


def test_plain_prompts_get_the_tokenizers_bos_once_and_no_eos(base):
    prompts = make_prompts(base, [SUM], TextOptions(), limit=5, purpose="test", visit_P=[3])
    ids = prompts.tokens[0]
    assert (
        base.encode(SUM.question)[-1] == base.eos_token_id
    )  # its own specials would close the text
    assert ids[0] == base.bos_token_id and (ids == base.bos_token_id).sum() == 1
    assert ids[-1] != base.eos_token_id and decode(base, ids) == "<s>What is 7+7?"
    written = make_prompts(
        base, [SUM], TextOptions(plain="<s>{question}"), limit=5, purpose="test", visit_P=0
    )
    np.testing.assert_array_equal(written.tokens[0], ids)
    assert prompts.purpose is Purpose.TEST and prompts.visit_P.dtype == np.int32
    assert prompts.visit_P.tolist() == [3] and ids.dtype == np.int32


def test_chat_tokens_are_those_of_apply_chat_template(r1, qwen, llama):
    # The last one adds a BOS to plain text, but its template writes none: then a chat has none.
    silent = build(QWEN, ["<|im_start|>", "<|im_end|>"], bos="<s>", eos="</s>", post_bos=True)
    assert silent.encode("x")[0] == silent.bos_token_id
    for tokenizer in (r1, qwen, llama, silent):
        chat = [{"role": "user", "content": SUM.question}]
        theirs = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        ours = make_prompts(tokenizer, [SUM], TextOptions(), limit=5, purpose="train", visit_P=0)
        assert ours.tokens[0].tolist() == theirs


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit_sentence": "Be quick."},
        {"plain": "Question:"},
        {"template": "jinja"},
        {"think_close": ""},
        {"think_open": "</think>"},
    ],
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=rf"text\.{next(iter(wrong))}"):
        TextOptions(**wrong)


# -- tokens ----------------------------------------------------------------------------------------


def test_end_tokens(qwen, llama, r1, base):
    im_end, end_of_text = qwen.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert end_token_ids(qwen, None) == tuple(sorted((im_end, end_of_text)))
    assert end_token_ids(qwen, {"eos_token_id": [im_end, 7]}) == (7, *sorted((im_end, end_of_text)))
    eot, eos = llama.convert_tokens_to_ids(["<|eot|>", "<|eos|>"])
    assert end_token_ids(llama, {"eos_token_id": eot}) == tuple(sorted((eot, eos)))
    assert end_token_ids(r1, {}) == (r1.eos_token_id,)
    assert end_token_ids(base, {"eos_token_id": 0}) == (0, base.eos_token_id)
    chat = TextOptions()
    assert end_token_id(qwen, chat) == im_end  # closes the turn, whatever else may end a response
    assert end_token_id(llama, chat) == eot
    assert end_token_id(qwen, TextOptions(template="plain")) == qwen.eos_token_id
    assert end_token_id(base, chat) == base.eos_token_id
    with pytest.raises(ValueError, match="eos_token"):
        end_token_ids(build(), {})


def test_a_folder_is_read_as_it_stands(r1, tmp_path):
    r1.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    # R1-Distill-Qwen names this class over a byte-level tokenizer.json.
    text = config.read_text()
    assert '"TokenizersBackend"' in text
    config.write_text(text.replace('"TokenizersBackend"', '"LlamaTokenizerFast"'))
    again = load_tokenizer(tmp_path)
    assert render(again, SUM, BOXED, 5) == render(r1, SUM, BOXED, 5)
    for text in CORPUS:
        np.testing.assert_array_equal(encode(again, text), encode(r1, text))
        assert decode(again, encode(again, text)) == text
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "nowhere")


@given(st.text(max_size=40))
def test_decode_gives_back_what_was_encoded(text):
    tokenizer = _byte_level()
    assert decode(tokenizer, encode(tokenizer, text)) == text


_CACHE = {}


def _byte_level():
    return _CACHE.setdefault("bpe", build(tags=False))


# -- spans -----------------------------------------------------------------------------------------


def test_thinking_lengths_by_hand():
    tokens = np.array(
        [
            [1, 2, 9, 3, 9, 4],  # closes at 3, a second tag is only text
            [1, 2, 3, 4, 5, 6],  # never closes
            [1, 2, 3, 9, 0, 0],  # the tag lies past the end of the row
            [9, 2, 3, 0, 0, 0],  # the empty thought
        ]
    )
    length = np.array([6, 6, 3, 3])
    assert thinking_lengths(tokens, length, (9,), True).tolist() == [3, 6, 3, 1]
    assert thinking_lengths(tokens, length, (9,), False).tolist() == [3, 0, 0, 1]
    mixed = np.array([False, True, False, False])
    assert thinking_lengths(tokens, length, (9,), mixed).tolist() == [3, 6, 0, 1]
    assert thinking_lengths(tokens, length, (9,), False, open_ids=(5,)).tolist() == [3, 6, 0, 1]
    assert thinking_lengths(tokens[:, :0], 0 * length, (9,), True).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError):
        thinking_lengths(tokens, length, (), True)


def test_thinking_lengths_of_a_tag_of_several_tokens():
    tokens = np.array([[1, 7, 8, 7, 8, 9, 3], [7, 8, 9, 0, 0, 0, 0], [1, 2, 7, 8, 9, 0, 0]])
    length = np.array([7, 3, 4])
    assert thinking_lengths(tokens, length, (7, 8, 9), True).tolist() == [6, 3, 4]
    # A place may hold several ids: here the last token is 9 or 3, the first 7 or 8.
    spelled = ((7, 8), (7,), (8,), (9, 3))
    assert thinking_lengths(tokens, length, spelled, True).tolist() == [6, 3, 4]


WORDS = [
    "<",
    "</",
    "think",
    ">",
    ".",
    "\n",
    "\n\n",
    " ",
    "x",
    "</div>",
    "14",
    "<think>",
    "</think>",
]


@given(
    st.lists(st.sampled_from(WORDS), max_size=14), st.booleans(), st.sampled_from(["one", "many"])
)
def test_token_spans_agree_with_text_spans(words, opened, tags):
    """Whatever surrounds the tags, and whether a tag is one token or several that merge at the
    edges, the tokens counted as thought are those that the text needs for its closing tag."""
    if tags not in _CACHE:
        tokenizer = build(tags=tags == "one")
        options = TextOptions()
        pair = [tag_spellings(tokenizer, t) for t in (options.think_close, options.think_open)]
        _CACHE[tags] = tokenizer, *pair
    tokenizer, close, open_ = _CACHE[tags]
    options = TextOptions()
    text = "".join(words)
    ids = encode(tokenizer, text)
    length = np.array([len(ids)])
    n = int(thinking_lengths(ids[None], length, close, opened, open_)[0])
    thought, answer = split_thought(text, options, opened)
    if options.think_close in text:
        assert options.think_close in decode(tokenizer, ids[:n])
        assert options.think_close not in decode(tokenizer, ids[: n - 1])
        assert text.endswith(options.think_close + answer)
    elif opened or options.think_open in text:
        assert n == len(ids) and answer == ""
    else:
        assert n == 0 and (thought, answer) == ("", text)


def test_tag_spellings(qwen):
    assert tag_spellings(qwen, "</think>") == (tag_ids(qwen, "</think>"),)
    tokenizer = _byte_level()
    ids = tag_ids(tokenizer, "</think>")
    assert len(ids) > 1 and decode(tokenizer, ids) == "</think>"
    spelled = tag_spellings(tokenizer, "</think>")
    assert all(i in allowed for i, allowed in zip(ids, spelled, strict=True))
    merged = encode(tokenizer, "x.</think>.")  # here neither edge is spelled as in the tag alone
    assert ids[0] not in merged and ids[-1] not in merged
    assert thinking_lengths(merged[None], np.array([len(merged)]), ids, False).tolist() == [0]
    assert thinking_lengths(merged[None], np.array([len(merged)]), spelled, False)[0] > 0


def test_split_thought():
    options = TextOptions()
    assert split_thought("a</think>b</think>c", options, True) == ("a", "b</think>c")
    assert split_thought("<think>\na</think>b", options, False) == ("\na", "b")
    assert split_thought("a", options, True) == ("a", "")
    assert split_thought("a", options, False) == ("", "a")
    marks = TextOptions(think_open="Thought:", think_close="\nAnswer:")
    assert opens_thought("Question: 7+7?\nThought:", marks)
    assert split_thought(" 7+7=14\nAnswer: 14", marks, True) == (" 7+7=14", " 14")


def test_a_word_level_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "<think>", "</think>", "7", "+", "=", "14", "[EOS]"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="[EOS]")
    assert tag_spellings(tokenizer, "</think>") == ((2,),)
    ids = encode(tokenizer, "7 + 7 = 14 </think> 14 [EOS]")
    assert thinking_lengths(ids[None], np.array([len(ids)]), (2,), True).tolist() == [6]
    assert decode(tokenizer, ids) == "7 + 7 = 14 </think> 14 [EOS]"
    assert end_token_ids(tokenizer, None) == (7,)


def test_import_stays_light():
    code = (
        "import sys, pruner_jax.text; "
        "assert not {'jax', 'flax', 'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_note_and_worked_examples_come_with_the_question(qwen, base):
    examples = [{"question": "2+2?", "response": "4"}, {"question": "3+3?", "response": "6"}]
    options = TextOptions(instruction="Be brief.", examples=examples)
    chat = render(qwen, SUM, options, 5, note="Think for 7 tokens.", examples=1)
    plain = render(qwen, SUM, options, 5)
    assert "2+2? Be brief." in chat and "3+3?" not in chat and "2+2?" not in plain
    assert chat.index("4<|im_end|>") < chat.index(f"{SUM.question} Be brief. Think for 7 tokens.")
    spelled = dataclasses.replace(options, template="plain", plain="Q: {question}\nA: ")
    written = render(base, SUM, spelled, 5, examples=2)
    assert written == (
        f"Q: 2+2? Be brief.\nA: 4\n\nQ: 3+3? Be brief.\nA: 6\n\nQ: {SUM.question} Be brief.\nA: "
    )
    with pytest.raises(ValueError, match=r"3 worked examples, but text\.examples has 2"):
        render(base, SUM, options, 5, examples=3)
    with pytest.raises(ValueError, match=r"text\.examples: each is"):
        TextOptions(examples=[{"question": "2+2?"}])
