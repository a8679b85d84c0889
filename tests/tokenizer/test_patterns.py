import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from gptlab.errors import TokenizerError
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS, split

any_text = st.text(st.characters() | st.characters(categories=["Cs"]))
# Characters on which the alternatives of the patterns turn, and a few from recent scripts.
telling_text = st.text(
    st.sampled_from(
        "aZſéß中1²٣'’sStTlLdDvVeErR .,!_-\t\n\r\v\f\x1c\x85\u00a0\u2028\u3000\u200d\u0301🙂\0"
    )
)
pattern_names = st.sampled_from(sorted(SPLIT_PATTERNS))


@given(any_text | telling_text, pattern_names)
def test_chunks_cover_every_string(text, pattern):
    chunks = list(split(text, pattern))
    assert "".join(chunks) == text
    assert all(chunks)


@given(telling_text, pattern_names, st.integers(1, 8))
def test_cutting_in_blocks_changes_nothing(text, pattern, size):
    whole = regex.findall(SPLIT_PATTERNS[pattern], text)
    assert list(split(text, pattern, block_characters=size)) == whole


@given(telling_text, pattern_names)
def test_oniguruma_reads_the_patterns_alike(text, pattern):
    splitter = Split(Regex(SPLIT_PATTERNS[pattern]), "isolated")
    assert [chunk for chunk, _ in splitter.pre_tokenize_str(text)] == list(split(text, pattern))


@pytest.mark.parametrize(
    ("pattern", "text", "chunks"),
    [
        ("gpt2", "I'll pay  $1234!\n", ["I", "'ll", " pay", " ", " $", "1234", "!", "\n"]),
        ("gpt4", "I'LL pay  $1234!\n", ["I", "'LL", " pay", " ", " $", "123", "4", "!\n"]),
        ("gpt2", "HE'S", ["HE", "'", "S"]),
        ("gpt4", "x = {\n\n    y", ["x", " =", " {\n\n", "   ", " y"]),
    ],
)
def test_examples(pattern, text, chunks):
    assert list(split(text, pattern)) == chunks


def test_unknown_pattern():
    with pytest.raises(TokenizerError, match=r"'gpt5'.*'gpt2' or 'gpt4'"):
        split("text", "gpt5")
