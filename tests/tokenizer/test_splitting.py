import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS, blocks, compiled
from gptlab.tokenizer.chunks.splitting import split_arrays

# Every kind of character that a pattern tells apart, and the near misses: the long s and the Kelvin
# sign fold to letters, U+001C and U+0085 are blanks to some engines, U+0301 combines.
TELLING = [*"abSs'  \n\r\t!.1é中🦆Ⅷ\u0301ſ\u212a\u2028\x1c\x85\xff\0\ud800"]
TELLING += ["ll", "'Ve", "'re", "23", " 's", "\n \n"]
texts = st.lists(st.sampled_from(TELLING), max_size=14).map("".join) | st.text(max_size=20)
patterns = st.sampled_from(sorted(SPLIT_PATTERNS))


def by_expression(text, pattern):
    return [chunk.encode("utf-8", "surrogatepass") for chunk in compiled(pattern).findall(text)]


def by_arrays(chunks):
    spans = zip(chunks.starts, chunks.starts + chunks.lengths, strict=True)
    return [chunks.data[start:stop] for start, stop in spans]


@settings(max_examples=1000)
@given(st.lists(texts, max_size=3), patterns)
@example(["'s", "'ll'lx", "x'sy", " 'S", "'ſt"], "gpt4")
@example(["!\n \n", "\n \n", "a \n\t\n b", "! \n", "\n\n  \n  a"], "gpt4")
@example(["12345678", "1 23", "é", "", "\xff"], "gpt4")
def test_chunks_are_those_of_the_expression(texts, pattern):
    chunks = split_arrays(texts, pattern)
    expected = [by_expression(text, pattern) for text in texts]
    assert by_arrays(chunks) == [chunk for text in expected for chunk in text]
    assert chunks.per_text.tolist() == [len(text) for text in expected]


@pytest.mark.parametrize("pattern", sorted(SPLIT_PATTERNS))
def test_every_character_of_unicode(pattern):
    # Each between a quote and a letter, a mark and a blank, and a digit and a newline.
    characters = map(chr, [*range(0x30000), *range(0x30000, 0x110000, 97)])
    text = "".join(f"'{c}s !{c} 1{c}\n" for c in characters)
    assert by_arrays(split_arrays([text], pattern)) == by_expression(text, pattern)


def test_no_planes_hold_letters_that_the_arrays_do_not_know():
    beyond = np.arange(0x40000, 0x110000, dtype="<u4").tobytes().decode("utf-32-le")
    assert regex.search(r"\p{L}|\p{N}|\s", beyond) is None


@pytest.mark.parametrize("pattern", sorted(SPLIT_PATTERNS))
@pytest.mark.parametrize("unit", ["a", "1", " ", "\n", "!", "\r\n", "é", "'s", " \n"])
def test_long_runs(unit, pattern):
    text = unit * 5000
    assert by_arrays(split_arrays([text], pattern)) == by_expression(text, pattern)


@settings(max_examples=500)
@given(st.lists(texts, max_size=4), patterns, st.integers(1, 12))
def test_blocks_do_not_cut_chunks(pieces, pattern, size):
    text = "".join(pieces)
    cut = list(blocks(pieces, size))
    assert "".join(cut) == text
    assert all(cut)
    assert [c for block in cut for c in by_expression(block, pattern)] == by_expression(
        text, pattern
    )


def test_blocks_are_about_as_long_as_asked():
    lengths = [len(block) for block in blocks(["some words "] * 1000, 100)]
    assert all(100 <= length < 110 for length in lengths[:-1])


def test_a_block_is_as_long_as_there_is_no_place_to_cut():
    assert [len(block) for block in blocks(["!" * 1000] * 1000 + ["a."], 100)] == [1_000_001, 1]
