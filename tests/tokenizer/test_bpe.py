import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import SPECIAL_TOKENS, BPETokenizer, Tokenizer, train_bpe
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS, split
from gptlab.tokenizer.encoding.merging import ChunkEncoder, merge_ids

CORPUS = "The cat's naïve 🙂 aaaa aaaaa baaab, 12345 cats!\r\n\n\tThe <EOS> 中文字 end.  " * 3
TOKENIZER = train_bpe(texts=[CORPUS], vocab_size=300)

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
    assert TOKENIZER.decode(TOKENIZER.encode(text, allowed_special="all")) == text


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


@pytest.mark.filterwarnings("ignore:vocab_size=300 can't be reached")
@given(few_letters, few_letters)
def test_both_encoders_agree_for_trained_vocabularies(corpus, text):
    tokenizer = train_bpe(texts=[corpus], vocab_size=300)
    ids = {tokenizer.token_bytes(i): i for i in range(256 + len(tokenizer.merges))}
    encoder = ChunkEncoder(ids, tokenizer.merges)
    assert encoder.ranks == ids
    expected = slow_encode(text, tokenizer.merges)
    assert tokenizer.encode(text) == expected
    assert encoder.merge(text.encode()) == expected


BY_HAND = [
    # "bc" comes first, so "abc" is never reached from "ab" and "c", but "a" and "bc" would give it.
    [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")],
    # "abcd" alone ends as "ab" and "cd", which no merge joins.
    [(b"a", b"b"), (b"b", b"c"), (b"bc", b"d"), (b"c", b"d"), (b"a", b"bcd")],
]


@pytest.mark.parametrize("merges", BY_HAND)
@given(text=st.text("abcd", max_size=60))
def test_a_merge_list_made_by_hand_is_followed_too(merges, text):
    tokenizer = BPETokenizer(merges)
    tokens = [*(bytes([byte]) for byte in range(256)), *map(b"".join, merges)]
    assert ChunkEncoder({token: i for i, token in enumerate(tokens)}, merges).ranks is None
    assert tokenizer.encode(text) == slow_encode(text, merges)


def test_merge_ids_goes_lowest_first_then_left_to_right():
    merged = {(1, 1): (0, 5), (5, 1): (1, 6), (2, 1): (2, 7)}
    assert merge_ids([1, 1, 1, 1, 1], merged) == [5, 6]
    assert merge_ids([2, 1, 1], merged) == [2, 5]
    assert merge_ids([], merged) == []


def test_chunk_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("gptlab.tokenizer.encoding.merging._MAX_CHUNKS", 3)
    encoder = ChunkEncoder({bytes([byte]): byte for byte in range(256)}, [])
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
    assert tokenizer.special_tokens == {name: 258 + i for i, name in enumerate(SPECIAL_TOKENS)}
    assert [tokenizer.token_bytes(i) for i in (0, 255, 256, 257)] == [b"\0", b"\xff", b"ab", b"abc"]
    special = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    assert special == (258, 259, 260, 261)
    assert tokenizer.decode(special) == "".join(SPECIAL_TOKENS)


def test_special_tokens_are_plain_text_unless_allowed():
    plain = TOKENIZER.encode("a<EOS>")
    assert max(plain) < TOKENIZER.pad_id
    allowed = TOKENIZER.encode("<BOS>a<EOS><EOS>", allowed_special="all")
    assert allowed == [TOKENIZER.bos_id, ord("a"), TOKENIZER.eos_id, TOKENIZER.eos_id]
    assert TOKENIZER.encode("<eos>", allowed_special="all") == TOKENIZER.encode("<eos>")


pieces = st.lists(st.sampled_from(["<EOS>", "<PAD>", "<BOS>", "<", "EOS>", "a", " the", "<x>"]))
names = st.sets(st.sampled_from(SPECIAL_TOKENS)) | st.just("all")


@given(pieces.map("".join), names, names)
def test_special_tokens_as_tiktoken_has_them(text, allowed, disallowed):
    encoding = tiktoken.Encoding(
        "same",
        pat_str=SPLIT_PATTERNS["gpt4"],
        mergeable_ranks={TOKENIZER.token_bytes(i): i for i in range(TOKENIZER.pad_id)},
        special_tokens=TOKENIZER.special_tokens,
    )
    options = {"allowed_special": allowed, "disallowed_special": disallowed}
    try:
        expected = encoding.encode(text, **options)
    except ValueError:
        with pytest.raises(TokenizerError, match="disallowed_special forbids"):
            TOKENIZER.encode(text, **options)
    else:
        assert TOKENIZER.encode(text, **options) == expected


@pytest.mark.parametrize("option", ["allowed_special", "disallowed_special"])
def test_special_tokens_by_wrong_names(option):
    with pytest.raises(TokenizerError, match=f"{option} is '<EOS>': give a collection"):
        TOKENIZER.encode("", **{option: "<EOS>"})
    with pytest.raises(TokenizerError, match=r"'<x>', which is no special token.*<PAD>, <UNK>"):
        TOKENIZER.encode("", allowed_special=["<x>"])


def test_with_special_tokens():
    more = TOKENIZER.with_special_tokens(["<|user|>", "é b"])
    assert more.encode("<|user|>é b<EOS>", allowed_special="all") == [
        TOKENIZER.vocab_size,
        TOKENIZER.vocab_size + 1,
        TOKENIZER.eos_id,
    ]
    assert more.decode([TOKENIZER.vocab_size + 1]) == "é b"
    assert more.encode("<|user|>") == TOKENIZER.encode("<|user|>")
    assert more.vocab_size == TOKENIZER.vocab_size + 2
    assert more.pad_id == TOKENIZER.pad_id
    assert "<|user|>" not in TOKENIZER.special_tokens
    assert more == BPETokenizer(
        TOKENIZER.merges, special_tokens=[*SPECIAL_TOKENS, "<|user|>", "é b"]
    )


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([""], "can't be empty"),
        (["<\ud800>"], r"'<\\ud800>' holds half a surrogate pair"),
        (["<x>", "<x>"], "'<x>' is a token already"),
        (["<EOS>"], "'<EOS>' is a token already"),
        (["a"], "'a' is a token already"),
        ("<x>", r"give \['<x>'\]"),
    ],
)
def test_special_tokens_are_checked(names, problem):
    with pytest.raises(TokenizerError, match=problem):
        TOKENIZER.with_special_tokens(names)
    with pytest.raises(TokenizerError, match=problem.replace("<EOS>", "a")):
        BPETokenizer([], special_tokens=["a"] if names == ["<EOS>"] else names)


def test_special_tokens_of_ones_own():
    tokenizer = BPETokenizer([], special_tokens=["<|endoftext|>"])
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (256, 257)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id) == (None, None, None)


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
        ([(b"a", b"b"), (b"a", b"b")], "merge 1 makes b'ab'"),
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
    other_special = BPETokenizer(TOKENIZER.merges, special_tokens=SPECIAL_TOKENS[::-1])
    different = {fewer, other_pattern, other_special, TOKENIZER.with_special_tokens(["<x>"])}
    assert len({t.fingerprint() for t in (same, *different)}) == 5
    assert len({same, TOKENIZER, *different}) == 5


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
