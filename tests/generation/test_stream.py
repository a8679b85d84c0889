import io

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.generation import TextStream
from gptlab.tokenizer import SentencePieceTokenizer, train_bpe

CORPUS = [f"the quick brown fox number {i} jumps over the lazy dog" for i in range(50)]
BPE = train_bpe(texts=[*CORPUS, "naïve 中文字 🙂 " * 5], vocab_size=330)
MERGED = train_bpe(texts=["abcd ababab aabb éab " * 20], vocab_size=280)
texts = st.text(st.characters(codec="utf-8") | st.sampled_from("the quick 中文🙂é\ufffd"))
many_ids = st.lists(st.integers(0, BPE.vocab_size - 1) | st.integers(0x80, 0xFF), max_size=40)


def sentencepiece_model(**settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, minloglevel=2, **settings
    )
    return SentencePieceTokenizer(model.getvalue())


PLAIN = sentencepiece_model(vocab_size=42)
WITH_BYTES = sentencepiece_model(vocab_size=300, byte_fallback=True, hard_vocab_limit=False)
SENTENCEPIECE = st.sampled_from([PLAIN, WITH_BYTES])


def pieces_of(tokenizer, ids, **options):
    stream = TextStream(tokenizer, **options)
    return [*map(stream.push, ids), stream.finish()]


def bytes_as_text(ids):
    return b"".join(map(BPE.token_bytes, ids)).decode("utf-8", "replace")


@given(texts)
def test_pieces_joined_are_the_text(text):
    assert "".join(pieces_of(BPE, BPE.encode(text))) == text


@given(many_ids)
@example([*b"\xed\xa0\x80", *b"a" * 6, 0xFF])
@example([*b"\xed\xa0\x80"])
@example([*b"\xf0\x9f\x99"])
def test_pieces_of_any_ids_joined_are_their_bytes_as_text(ids):
    assert "".join(pieces_of(BPE, ids)) == bytes_as_text(ids)


@given(many_ids)
def test_every_piece_can_be_printed(ids):
    for piece in pieces_of(BPE, ids):
        piece.encode("utf-8")


@given(texts)
def test_no_piece_ends_in_the_middle_of_a_character(text):
    stream = TextStream(BPE)
    so_far = ""
    for token in BPE.encode(text):
        so_far += stream.push(token)
        assert text.startswith(so_far)


def test_a_character_comes_with_its_last_byte():
    ids = list("é🙂".encode())
    assert pieces_of(BPE, ids) == ["", "é", "", "", "", "🙂", ""]


@given(SENTENCEPIECE, texts)
def test_sentencepiece_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@settings(max_examples=200)
@given(SENTENCEPIECE, st.data())
def test_sentencepiece_ids(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@given(SENTENCEPIECE, texts, st.data())
def test_sentencepiece_after_a_prompt(tokenizer, text, data):
    prompt = tokenizer.encode("the fox " + text)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    whole, before = tokenizer.decode([*prompt, *ids]), tokenizer.decode(prompt)
    assert before + "".join(pieces_of(tokenizer, ids, prompt=prompt)) == whole


@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BYTES])
def test_tokens_without_text_leave_the_space_before_a_word(tokenizer):
    fox, nothing = tokenizer.encode("fox"), [tokenizer.eos_id] * 6
    assert "".join(pieces_of(tokenizer, [*fox, *nothing, *fox])) == "fox fox"
    assert "".join(pieces_of(tokenizer, fox, prompt=[*fox, *nothing])) == " fox"


@given(texts, texts)
def test_a_prompt_is_not_part_of_the_text(prompt, text):
    pieces = pieces_of(BPE, BPE.encode(text), prompt=BPE.encode(prompt))
    assert "".join(pieces) == text


def cut_at_first_stop(text, stops):
    """The text before the stop that is complete first; of several, the one that began first."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


few_letters = st.text("abé", max_size=12)


@settings(max_examples=300)
@given(few_letters, st.lists(st.text("abé", min_size=1, max_size=4), max_size=3))
@example("abcd", ["abcd", "bc"])
@example("aab", ["ab"])
def test_stops_wherever_tokens_end(text, stops):
    expected = cut_at_first_stop(text, stops)
    for tokenizer, ids in ((BPE, list(text.encode())), (MERGED, MERGED.encode(text))):
        stream = TextStream(tokenizer, stop=stops)
        pieces = [*map(stream.push, ids), stream.finish()]
        assert "".join(pieces) == expected
        assert stream.stopped == (expected != text)


def test_a_stop_is_never_shown_in_part():
    stream = TextStream(BPE, stop=["\n\nUser:"])
    shown = [stream.push(token) for token in b"hi\n\nUsed\n\nUser: x"]
    assert "".join(shown) == "hi\n\nUsed"
    assert stream.stopped
    assert shown[2:7] == [""] * 5
    assert stream.push(ord("y")) == ""
    assert stream.finish() == ""


def test_what_was_held_for_a_stop_comes_at_the_end():
    stream = TextStream(BPE, stop=["END"])
    assert "".join(stream.push(token) for token in b"the EN") == "the "
    assert stream.finish() == "EN"
    assert stream.finish() == ""
    assert not stream.stopped


def test_a_stop_that_the_end_completes():
    stream = TextStream(BPE, stop=["x\ufffd"])
    assert "".join(stream.push(token) for token in b"ax\xf0") == "a"
    assert stream.finish() == ""
    assert stream.stopped


def test_an_empty_stop_is_none():
    assert "".join(pieces_of(BPE, BPE.encode("the fox"), stop=[""])) == "the fox"
