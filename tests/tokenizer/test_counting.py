from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab.tokenizer.counting as counting
from gptlab.tokenizer.chunks.patterns import split
from gptlab.tokenizer.chunks.splitting import split_arrays
from gptlab.tokenizer.chunks.table import ChunkTable
from gptlab.tokenizer.counting import count_chunks

WORDS = [
    "a",
    "the",
    "x\0",
    "\0",
    "internationalization",
    "sixteen bytes it",
    "é",
    "🦆",
    "1234",
    "\n",
]
texts = st.lists(st.lists(st.sampled_from(WORDS)).map(" ".join) | st.text(max_size=30), max_size=5)


def all_chunks(texts, pattern="gpt4"):
    return [
        chunk.encode("utf-8", "surrogatepass") for text in texts for chunk in split(text, pattern)
    ]


@given(texts)
def test_numbers_are_equal_where_chunks_are(texts):
    table = ChunkTable()
    for _ in range(2):
        chunks = split_arrays(texts, "gpt4")
        numbered = [table.chunks()[number] for number in table.number(chunks)]
        assert numbered == [
            chunk.encode("utf-8", "surrogatepass") for t in texts for chunk in split(t, "gpt4")
        ]
    assert len(set(table.chunks())) == len(table)


def test_numbers_when_many_chunks_share_a_slot():
    text = " ".join(map(str, range(300_000)))
    table = ChunkTable()
    expected = [chunk.encode() for chunk in split(text, "gpt2")]
    for _ in range(2):
        numbers = table.number(split_arrays([text], "gpt2"))
        chunks = table.chunks()
        assert [chunks[number] for number in numbers] == expected
    assert len(chunks) == len(set(expected)) > 1 << 16


@given(texts, st.sampled_from(["gpt2", "gpt4"]))
def test_counts(texts, pattern):
    assert count_chunks(texts, pattern, processes=1) == Counter(all_chunks(texts, pattern))


@settings(max_examples=20, deadline=None)
@given(texts, st.integers(1, 5), st.integers(1, 3), st.integers(0, 20))
def test_neither_processes_nor_pieces_nor_batches_change_counts(texts, size, processes, batch):
    pieces = [[text[i : i + size] for i in range(0, len(text), size)] for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_BATCH_CHARACTERS", batch)
        patch.setattr(counting, "_MAX_TABLE", 3)
        assert count_chunks(iter(pieces), "gpt4", processes=processes) == Counter(all_chunks(texts))
