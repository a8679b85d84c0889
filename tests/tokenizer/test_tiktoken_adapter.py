import base64
import hashlib
import json
import pickle
import threading
import time

import numpy as np
import pytest
import requests
import tiktoken
import tiktoken.load
from hypothesis import example, given
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import TiktokenTokenizer, Tokenizer, train_bpe
from gptlab.tokenizer.adapters import tiktoken as adapter
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS

CORPUS = [f"the quick brown fox number {i} jumps over the lazy dog" for i in range(50)]
BPE = train_bpe(texts=CORPUS, vocab_size=330)
END = "<|endoftext|>"


def make_encoding(**changes):
    ranks = {BPE.token_bytes(i): i for i in range(BPE.vocab_size - 4)}
    settings = {
        "name": "ours",
        "pat_str": SPLIT_PATTERNS["gpt4"],
        "mergeable_ranks": ranks,
        "special_tokens": {END: len(ranks) + 2},
    }
    return tiktoken.Encoding(**{**settings, **changes})


TOKENIZER = TiktokenTokenizer(make_encoding())


@given(st.text(st.characters(max_codepoint=0x24F)))
def test_agrees_with_our_own_for_the_same_ranks(text):
    ids = TOKENIZER.encode(text)
    assert ids == BPE.encode(text)
    assert TOKENIZER.decode(ids) == text


def test_ids():
    assert isinstance(TOKENIZER, Tokenizer)
    assert TOKENIZER.vocab_size == BPE.vocab_size - 1
    assert TOKENIZER.eos_id == TOKENIZER.vocab_size - 1
    assert (TOKENIZER.pad_id, TOKENIZER.unk_id, TOKENIZER.bos_id) == (None, None, None)
    assert TiktokenTokenizer(make_encoding(special_tokens={})).eos_id is None


@given(st.lists(st.sampled_from([END, "<|fim|>", "<|", "fox", "|>"])).map("".join), st.data())
def test_special_tokens_as_tiktoken_has_them(text, data):
    encoding = make_encoding(special_tokens={END: 400, "<|fim|>": 500})
    choices = st.just("all") | st.sets(st.sampled_from([END, "<|fim|>"]))
    special = {
        "allowed_special": data.draw(choices),
        "disallowed_special": data.draw(choices),
    }
    try:
        expected = encoding.encode(text, **special)
    except ValueError:
        with pytest.raises(TokenizerError, match="disallowed_special"):
            TiktokenTokenizer(encoding).encode(text, **special)
    else:
        assert TiktokenTokenizer(encoding).encode(text, **special) == expected
        assert TiktokenTokenizer(encoding).decode(expected) == text


def test_special_tokens_are_plain_text_by_default():
    assert TOKENIZER.eos_id not in TOKENIZER.encode(f"fox{END}")
    assert TOKENIZER.encode(f"fox{END}", allowed_special=[END])[-1] == TOKENIZER.eos_id


def test_dropout_is_refused():
    with pytest.raises(TokenizerError, match=r"dropout=0\.1"):
        TOKENIZER.encode("fox", dropout=0.1, seed=1)
    assert TOKENIZER.encode("fox", dropout=0.0, seed=1) == TOKENIZER.encode("fox")


@given(st.text(st.characters() | st.sampled_from("fox \ud800")))
@example("")
@example(f"fox{END}")
def test_encode_to_array_is_encode(text):
    array = TOKENIZER.encode_to_array(text)
    assert array.dtype == np.uint16
    assert array.tolist() == TOKENIZER.encode(text)
    arrays = TOKENIZER.encode_to_arrays([text, "fox"])
    assert [ids.tolist() for ids in arrays] == TOKENIZER.encode_batch([text, "fox"])


@pytest.mark.parametrize(("highest", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_arrays_are_as_wide_as_the_vocabulary_needs(highest, dtype):
    tokenizer = TiktokenTokenizer(make_encoding(special_tokens={END: highest}))
    assert tokenizer.encode_to_array("fox").dtype == dtype


def test_encode_batch():
    assert TOKENIZER.encode_batch(iter(CORPUS)) == [TOKENIZER.encode(text) for text in CORPUS]


def test_lone_surrogates_are_replaced():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a\ufffdb"


def test_ids_outside_the_vocabulary_and_in_its_gaps():
    for bad in (-1, TOKENIZER.vocab_size, TOKENIZER.eos_id - 1, "a"):
        with pytest.raises(TokenizerError, match=f"id {bad!r} "):
            TOKENIZER.decode([65, bad])
        with pytest.raises(TokenizerError, match=f"id {bad!r} "):
            TOKENIZER.token_bytes(bad)


@given(st.text(st.characters(codec="utf-8")))
@example(END)
def test_the_bytes_of_tokens_make_the_text(text):
    ids = TOKENIZER.encode(text, allowed_special="all")
    assert b"".join(map(TOKENIZER.token_bytes, ids)) == text.encode()
    assert {TOKENIZER.token_bytes(i) for i in range(256)} == {bytes([i]) for i in range(256)}


def test_save_and_load(tmp_path):
    TOKENIZER.save(tmp_path / "new")
    loaded = TiktokenTokenizer.load(tmp_path / "new")
    assert loaded.fingerprint() == TOKENIZER.fingerprint()
    assert loaded.encode_batch(CORPUS) == TOKENIZER.encode_batch(CORPUS)
    assert loaded.eos_id == TOKENIZER.eos_id
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiktoken.json"]


def test_fingerprint_follows_what_decides_encode():
    others = [
        make_encoding(pat_str=SPLIT_PATTERNS["gpt2"]),
        make_encoding(special_tokens={}),
        make_encoding(mergeable_ranks={bytes([i]): i for i in range(256)}),
    ]
    prints = {TiktokenTokenizer(encoding).fingerprint() for encoding in others}
    assert len(prints | {TOKENIZER.fingerprint()}) == 4
    assert TiktokenTokenizer(make_encoding(name="x")).fingerprint() == TOKENIZER.fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": "("},
        {"pattern": None},
        {"ranks": {}},
        {"ranks": None},
        {"ranks": {"?": 1}},
        {"special_tokens": {END: 0}},
        {"special_tokens": {END: -1}},
        {"special_tokens": []},
    ],
    ids=str,
)
def test_changed_files_are_refused(tmp_path, changes):
    TOKENIZER.save(tmp_path)
    file = tmp_path / "tiktoken.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(TokenizerError, match=r"tiktoken\.json"):
        TiktokenTokenizer.load(tmp_path)


def test_a_panic_of_the_core_is_an_error(monkeypatch):
    class PanicException(BaseException):
        """Named as pyo3 names what it raises."""

    def panic(*_, **__):
        raise PanicException("StackOverflow")

    monkeypatch.setattr(tiktoken.Encoding, "encode_ordinary", panic)
    monkeypatch.setattr(tiktoken.Encoding, "encode_to_numpy", panic)
    for encode in (TOKENIZER.encode, TOKENIZER.encode_to_array):
        with pytest.raises(TokenizerError, match="whitespace"):
            encode("text")


def test_pickle():
    twin = pickle.loads(pickle.dumps(TOKENIZER))
    assert twin.encode(CORPUS[0]) == TOKENIZER.encode(CORPUS[0])


@pytest.fixture
def known(monkeypatch):
    """Encodings by name, made by the functions that a test puts in."""
    tiktoken.list_encoding_names()
    constructors = dict(tiktoken.registry.ENCODING_CONSTRUCTORS)
    monkeypatch.setattr(tiktoken.registry, "ENCODING_CONSTRUCTORS", constructors)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    return constructors


def cached_file(folder, content):
    """A constructor of an encoding from a file on the web, and that file in tiktoken's cache."""
    address = "https://gptlab.invalid/tiny.tiktoken"
    (folder / hashlib.sha1(address.encode()).hexdigest()).write_bytes(content)
    tiny = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))

    def constructor():
        ranks = tiktoken.load.load_tiktoken_bpe(address, hashlib.sha256(tiny).hexdigest())
        return {"name": "tiny", "pat_str": ".", "mergeable_ranks": ranks, "special_tokens": {}}

    return constructor, tiny


def test_a_cached_file_needs_no_network(known, monkeypatch, tmp_path):
    monkeypatch.setattr(requests, "get", pytest.fail)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    _, tiny = cached_file(tmp_path, b"")
    known["tiny"], _ = cached_file(tmp_path, tiny)
    assert TiktokenTokenizer.from_name("tiny").encode("abc") == [*b"abc"]


class Answer:
    content = b"a page to log in"

    def raise_for_status(self):
        """All seems well."""


def refuse(*_):
    raise requests.ConnectionError("HTTPSConnectionPool:\nrefused")


@pytest.mark.parametrize(
    ("get", "cause"), [(refuse, "refused"), (lambda *_: Answer(), "Hash mismatch")]
)
def test_what_can_not_be_fetched_is_one_clear_error(known, monkeypatch, tmp_path, get, cause):
    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    known["tiny"], _ = cached_file(tmp_path, b"a damaged file")
    with pytest.raises(TokenizerError) as error:
        TiktokenTokenizer.from_name("tiny")
    for part in ("'tiny'", cause, "TIKTOKEN_CACHE_DIR"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_never_answers_is_given_up_on(known, monkeypatch, tmp_path):
    answer = threading.Event()

    def wait(*_):
        answer.wait()
        refuse()

    monkeypatch.setattr(requests, "get", wait)
    monkeypatch.setattr(adapter, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    known["tiny"], _ = cached_file(tmp_path, b"a damaged file")
    start = time.monotonic()
    try:
        # tiktoken holds a lock while it waits, which must not make the next call hang either.
        for name in ("tiny", "gpt2", "nope"):
            with pytest.raises(TokenizerError, match=rf"{name}.*no answer within 0\.05 seconds"):
                TiktokenTokenizer.from_name(name)
    finally:
        answer.set()
    assert time.monotonic() - start < 5


def test_unknown_names():
    with pytest.raises(TokenizerError, match=r"'nope'.*gpt2"):
        TiktokenTokenizer.from_name("nope")
