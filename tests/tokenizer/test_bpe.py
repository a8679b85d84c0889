import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import SPECIAL_TOKENS, BPETokenizer, Tokenizer, train_bpe
from gptlab.tokenizer.merging import ChunkEncoder, merge_ids
from gptlab.tokenizer.patterns import split

CORPUS = "The cat's naïve 🙂 aaaa aaaaa baaab, 12345 cats!\r\n\n\tThe <EOS> 中文字 end.  " * 3
TOKENIZER = train_bpe(texts=[CORPUS], vocab_size=330)

any_text = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from(CORPUS))
few_letters = st.text("abc", min_size=1, max_size=60)


def slow_encode(text, merges, pattern="gpt4"):
    """Apply each merge in turn to all of every chunk, from left to right."""
    rank = {b"".join(merge): 256 + i for i, merge in enumerate(merges)}
    ids = []
    for chunk in split(text, pattern):
        parts = [bytes([byte]) for byte in chunk.encode("utf-8", "surrogatepass")]
        for left, right in merges:
            i = 0
            while i < len(parts) - 1:
                if parts[i] == left and parts[i + 1] == right:
                    parts[i : i + 2] = [left + right]
                i += 1
        ids += [part[0] if len(part) == 1 else rank[part] for part in parts]
    return ids


@given(any_text)
def test_round_trip_of_every_string(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.decode(TOKENIZER.encode(text, allow_special=True)) == text


ODD_STRINGS = {
    "empty": "",
    "NUL": "\0",
    "combining marks": "e\u0301\u0302",
    "joined emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "a lone surrogate": "\ud800",
    "several surrogates": "\udc00\ud83d\ude00",
    "line ends": "\ufeff\r\r\n\v\x85\u2028",
    "special tokens": "<PAD><EOS>",
    "a long line": "no break" * 40_000,
    "a long run": "a" * 300_000,
    "long whitespace": " " * 300_000 + "x",
    "many surrogates": "\ud800" * 100_000,
}


@pytest.mark.parametrize("name", ODD_STRINGS)
def test_round_trip_of_odd_strings(name):
    text = ODD_STRINGS[name]
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(any_text)
def test_encode_follows_the_merge_list(text):
    assert TOKENIZER.encode(text) == slow_encode(text, TOKENIZER.merges)


@given(few_letters, few_letters)
def test_both_encoders_agree_for_trained_vocabularies(corpus, text):
    tokenizer = train_bpe(texts=[corpus], vocab_size=300)
    encoder = tokenizer._chunk_ids
    assert encoder._core is not None
    expected = slow_encode(text, tokenizer.merges)
    assert tokenizer.encode(text) == expected
    assert encoder.merge(text.encode()) == expected


@given(few_letters)
def test_a_merge_list_made_by_hand_is_followed_too(text):
    # "bc" comes first, so "abc" is never reached from "ab" and "c", but "a" and "bc" would give it.
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]
    tokenizer = BPETokenizer(merges)
    assert tokenizer._chunk_ids._core is None
    assert tokenizer.encode(text) == slow_encode(text, merges)


def test_merge_ids_goes_lowest_first_then_left_to_right():
    merged = {(1, 1): 5, (5, 1): 6, (2, 1): 7}
    assert merge_ids([1, 1, 1, 1, 1], merged) == [5, 6]
    assert merge_ids([2, 1, 1], merged) == [2, 5]
    assert merge_ids([], merged) == []


def test_chunk_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("gptlab.tokenizer.merging._MAX_CHUNKS", 3)
    encoder = ChunkEncoder([bytes([byte]) for byte in range(256)], {})
    for i in range(10):
        assert encoder[f"{i}"] == [ord("0") + i]
        assert len(encoder) <= 3
    assert encoder["x" * 1000] == [ord("x")] * 1000
    assert "x" * 1000 not in encoder


def test_ids_are_bytes_then_merges_then_specials():
    tokenizer = BPETokenizer([(b"a", b"b"), (b"ab", b"c")])
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.vocab_size == 262
    assert tokenizer.encode("abc ab") == [257, 32, 256]
    assert [tokenizer.token_bytes(i) for i in (0, 255, 256, 257)] == [b"\0", b"\xff", b"ab", b"abc"]
    special = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    assert special == (258, 259, 260, 261)
    assert tokenizer.decode(special) == "".join(SPECIAL_TOKENS)


def test_special_tokens_are_plain_text_unless_allowed():
    plain = TOKENIZER.encode("a<EOS>")
    assert max(plain) < TOKENIZER.pad_id
    allowed = TOKENIZER.encode("<BOS>a<EOS><EOS>", allow_special=True)
    assert allowed == [TOKENIZER.bos_id, ord("a"), TOKENIZER.eos_id, TOKENIZER.eos_id]
    assert TOKENIZER.encode("<eos>", allow_special=True) == TOKENIZER.encode("<eos>")


def test_encode_batch():
    texts = ["one", "", "The cat's"]
    assert TOKENIZER.encode_batch(iter(texts)) == [TOKENIZER.encode(text) for text in texts]


def test_decode_replaces_what_is_no_utf8():
    assert TOKENIZER.decode([0x61, 0xE9, 0x62]) == "a\ufffdb"
    assert TOKENIZER.decode([]) == ""


@pytest.mark.parametrize("bad", [-1, TOKENIZER.vocab_size, 10**30, "a", 1.0, None])
def test_decode_names_the_id_that_is_no_token(bad):
    with pytest.raises(TokenizerError) as caught:
        TOKENIZER.decode([65, bad])
    assert repr(bad) in str(caught.value)
    assert f"vocab_size={TOKENIZER.vocab_size}" in str(caught.value)
    with pytest.raises(TokenizerError):
        TOKENIZER.token_bytes(bad)


def test_decode_takes_numpy_ids():
    assert TOKENIZER.decode(np.array(TOKENIZER.encode("The cat"))) == "The cat"


@pytest.mark.parametrize(
    ("merges", "problem"),
    [
        ([(b"ab", b"c"), (b"a", b"b")], "merge 0.*b'ab'"),
        ([(b"a", b""), (b"a", b"b")], "merge 0"),
        ([(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")], "merge 3 makes b'abc'"),
    ],
)
def test_merges_are_checked(merges, problem):
    with pytest.raises(TokenizerError, match=problem):
        BPETokenizer(merges)


def test_fingerprint_and_equality_follow_what_decides_encode():
    same = BPETokenizer(TOKENIZER.merges)
    fewer = BPETokenizer(TOKENIZER.merges[:-1])
    other_pattern = BPETokenizer(TOKENIZER.merges, pattern="gpt2")
    assert same == TOKENIZER
    assert hash(same) == hash(TOKENIZER)
    assert same.fingerprint() == TOKENIZER.fingerprint()
    assert len({t.fingerprint() for t in (same, fewer, other_pattern)}) == 3
    assert len({same, TOKENIZER, fewer, other_pattern}) == 3


def test_merges_can_not_be_changed_from_outside():
    TOKENIZER.merges.clear()
    assert TOKENIZER.merges


def test_copies_and_pickles():
    for twin in (copy.deepcopy(TOKENIZER), pickle.loads(pickle.dumps(TOKENIZER))):
        assert twin == TOKENIZER
        assert twin.encode(CORPUS) == TOKENIZER.encode(CORPUS)


def test_torch_is_not_imported():
    code = "import sys, gptlab.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
