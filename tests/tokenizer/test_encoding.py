import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab.tokenizer.encoding.block as block_encoder
import gptlab.tokenizer.encoding.documents as encoding
from gptlab.errors import DataError, TokenizerError
from gptlab.tokenizer import BPETokenizer, TiktokenTokenizer, encode_documents, train_bpe

TEXT = "The café's 12345 cats\n\n   sat 🦆 on a mat, internationalization notwithstanding. "
TOKENIZER = train_bpe(texts=[TEXT * 3], vocab_size=300)
WORDS = [
    "the",
    "café",
    "🦆",
    "1234",
    "internationalization",
    "\n",
    "\n \n",
    "<EOS>",
    "\0",
    "\ud800",
]
texts = st.lists(st.sampled_from(WORDS)).map(" ".join) | st.text(max_size=30)


@given(texts, st.sampled_from(["gpt2", "gpt4"]))
def test_arrays_hold_the_ids_of_encode(text, pattern):
    tokenizer = BPETokenizer(TOKENIZER.merges, pattern=pattern)
    ids = tokenizer.encode_to_array(text)
    assert ids.dtype == np.uint16
    assert ids.tolist() == tokenizer.encode(text)


@given(st.lists(texts, max_size=5))
def test_batches(batch):
    expected = [TOKENIZER.encode(text) for text in batch]
    assert TOKENIZER.encode_batch(iter(batch)) == expected
    assert [ids.tolist() for ids in TOKENIZER.encode_to_arrays(iter(batch))] == expected


def test_long_texts_are_encoded_alike():
    # Each sentence begins with a letter behind a space, so that it is encoded as it is alone.
    parts = [f" Word{'x' * (n % 40)} {n} é {'=' * (n % 7)}\tz" for n in range(3000)]
    text = "".join(parts)
    expected = [i for part in parts for i in TOKENIZER.encode(part)]
    assert TOKENIZER.encode(text) == TOKENIZER.encode_to_array(text).tolist() == expected


def test_a_large_vocabulary_takes_wider_ids():
    merges = [(bytes([a]), bytes([b])) for a in range(256) for b in range(256)]
    tokenizer = BPETokenizer(merges)
    assert tokenizer.encode_to_array("zz").dtype == np.uint32
    assert tokenizer.encode_to_array("zz").tolist() == tokenizer.encode("zz") == [256 + 0x7A7A]


@given(st.lists(st.lists(texts, max_size=3), max_size=6))
def test_what_is_remembered_is_bounded_and_changes_nothing(batches):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_encoder, "_MAX_CHUNKS", 2)
        tokenizer = BPETokenizer(TOKENIZER.merges)
        for batch in batches:
            arrays = tokenizer.encode_to_arrays(batch)
            assert [ids.tolist() for ids in arrays] == [TOKENIZER.encode(text) for text in batch]


def test_threads_do_not_disturb_one_another():
    texts = [f"{TEXT}{n} word{'x' * n} " * 100 for n in range(8)]
    expected = [TOKENIZER.encode(text) for text in texts]
    tokenizer = BPETokenizer(TOKENIZER.merges)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(tokenizer.encode, texts * 3)) == expected * 3
    finally:
        sys.setswitchinterval(interval)


def test_an_interrupt_leaves_nothing_wrong_behind():
    calls = 0

    def encode_chunk(chunk):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return list(chunk)

    encode = block_encoder.BlockEncoder("gpt4", encode_chunk, np.dtype("<u2"))
    with pytest.raises(KeyboardInterrupt):
        encode(["one two three four five"])
    assert [bytes(ids.tolist()) for ids in encode(["two five one", "six"])] == [
        b"two five one",
        b"six",
    ]


@given(st.lists(texts, max_size=6))
def test_what_is_remembered_is_bounded_in_bytes_too(batches):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_encoder, "_MAX_IDS", 5)
        tokenizer = BPETokenizer(TOKENIZER.merges)
        for text in batches:
            assert tokenizer.encode_to_array(text).tolist() == TOKENIZER.encode(text)


def joined(pieces):
    """The ids of each document."""
    documents, document = [], []
    for piece in pieces:
        document += piece.ids.tolist()
        if piece.ends_document:
            documents.append(document)
            document = []
    assert not document
    return documents


@settings(max_examples=20, deadline=None)
@given(st.lists(texts, max_size=5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 20))
def test_neither_processes_nor_pieces_nor_batches_change_ids(documents, size, processes, batch):
    streams = [[text[i : i + size] for i in range(0, len(text), size)] for text in documents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_BATCH_CHARACTERS", batch)
        pieces = list(encode_documents(TOKENIZER, iter(streams), processes=processes))
    assert joined(pieces) == [TOKENIZER.encode(text) for text in documents]
    assert sum(piece.characters for piece in pieces) == sum(map(len, documents))
    assert sum(piece.size for piece in pieces) == sum(
        len(text.encode("utf-8", "surrogatepass")) for text in documents
    )


def test_a_long_document_comes_in_pieces():
    document = TEXT * 10_000
    pieces = list(encode_documents(TOKENIZER, [document], processes=2))
    assert len(pieces) > 5
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert joined(pieces) == [TOKENIZER.encode(document)]


def test_other_tokenizers_get_whole_documents():
    ranks = {TOKENIZER.token_bytes(i): i for i in range(296)}
    other = TiktokenTokenizer(
        tiktoken.Encoding("x", pat_str=r"\w+|\W+", mergeable_ranks=ranks, special_tokens={})
    )
    pieces = list(encode_documents(other, [["a b", "c d"], "", TEXT * 5000], processes=1))
    assert [piece.ends_document for piece in pieces] == [True] * 3
    assert joined(pieces) == [other.encode(text) for text in ("a bc d", "", TEXT * 5000)]


def test_dropout_is_repeatable_whatever_the_number_of_processes():
    documents = [TEXT * 2000, TEXT, TEXT]

    def encoded(seed, processes):
        options = {"processes": processes, "dropout": 0.3, "seed": seed}
        return joined(encode_documents(TOKENIZER, documents, **options))

    first = encoded(1, 1)
    assert first == encoded(1, 2)
    assert first != encoded(2, 1)
    assert first[1] != first[2]
    assert [TOKENIZER.decode(ids) for ids in first] == documents
    assert len(first[0]) > len(TOKENIZER.encode(documents[0]))


def test_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"The caf\xc3\xa9\r\n")
    (tmp_path / "b.jsonl").write_text('{"content": "cats"}\n{"content": ""}\n')
    files = [tmp_path / "b.jsonl", tmp_path / "a.txt"]
    arrays = TOKENIZER.encode_files(files, field="content", processes=2)
    assert [ids.tolist() for ids in arrays] == [
        TOKENIZER.encode(text) for text in ("cats", "", "The café\r\n")
    ]
    with pytest.raises(DataError, match="nowhere"):
        next(TOKENIZER.encode_files(tmp_path / "nowhere"))


def test_errors_in_a_worker_arrive():
    with pytest.raises(TokenizerError, match="dropout is 2"):
        list(encode_documents(TOKENIZER, [TEXT * 20_000] * 3, processes=2, dropout=2))
