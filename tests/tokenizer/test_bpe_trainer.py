from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import DataError, TokenizerError
from gptlab.tokenizer import train_bpe
from gptlab.tokenizer.patterns import split


def naive_merges(text, num_merges, pattern):
    """Recount all pairs before each merge; the lowest of the most frequent pairs wins."""
    words = [list(chunk.encode("utf-8", "surrogatepass")) for chunk in split(text, pattern)]
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    while len(merges) < num_merges:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((tokens[pair[0]], tokens[pair[1]]))
        tokens.append(b"".join(merges[-1]))
        words = [join(word, pair, len(tokens) - 1) for word in words]
    return merges


def join(word, pair, new_id):
    joined, i = [], 0
    while i < len(word):
        found = tuple(word[i : i + 2]) == pair
        joined.append(new_id if found else word[i])
        i += 2 if found else 1
    return joined


few_letters = st.text("ab", max_size=60)
runs = st.lists(st.tuples(st.sampled_from("ab é"), st.integers(1, 9)), max_size=12).map(
    lambda runs: "".join(letter * length for letter, length in runs)
)
words = st.lists(st.sampled_from(["low", "lower", "newest", "aaaa", "na na", "1234", "\n"])).map(
    " ".join
)
corpora = few_letters | runs | words | st.text(max_size=40)


@given(corpora.filter(bool), st.integers(0, 40), st.sampled_from(["gpt2", "gpt4"]))
def test_same_merges_as_the_naive_trainer(text, num_merges, pattern):
    tokenizer = train_bpe(texts=[text], vocab_size=260 + num_merges, pattern=pattern)
    assert tokenizer.merges == naive_merges(text, num_merges, pattern)


def test_ties_go_to_the_lowest_pair():
    assert train_bpe(texts=["dc ba"], vocab_size=261).merges == [(b" ", b"b")]


def test_bytes_come_before_merges_in_a_tie():
    # Once "ab" is the id 256, the pairs (y, z) and (256, c) occur twice each.
    tokenizer = train_bpe(texts=["abc", "abc", "ab", "yz", "yz"], vocab_size=263)
    assert tokenizer.merges == [(b"a", b"b"), (b"y", b"z"), (b"ab", b"c")]


def test_texts_are_counted_apart_and_order_does_not_matter():
    first = train_bpe(texts=["ab", "cd", "cd"], vocab_size=300)
    assert first == train_bpe(texts=iter(["cd", "ab", "cd"]), vocab_size=300)
    assert first.merges == [(b"c", b"d"), (b"a", b"b")]


def test_stops_early_when_all_chunks_are_single_tokens():
    tokenizer = train_bpe(texts=["abc"], vocab_size=5000)
    assert tokenizer.vocab_size == 260 + 2
    assert train_bpe(texts=["a"], vocab_size=300).vocab_size == 260


def test_special_tokens_in_a_corpus_are_plain_text():
    tokenizer = train_bpe(texts=["<EOS>" * 100], vocab_size=300)
    assert b"EOS" in map(b"".join, tokenizer.merges)
    assert tokenizer.eos_id not in tokenizer.encode("<EOS>")


def test_a_million_characters_without_a_break():
    assert len(train_bpe(texts=["ab" * 500_000], vocab_size=265).merges) == 5


def test_files_are_read_as_they_are(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_bytes(b"one\r\ntwo\r\n" * 5)
    from_file = train_bpe([file], vocab_size=300)
    assert from_file == train_bpe(texts=["one\r\ntwo\r\n" * 5], vocab_size=300)
    assert (b"\r", b"\n") in from_file.merges
    assert from_file == train_bpe(str(file), vocab_size=300)


def test_progress_goes_to_standard_error(capsys):
    train_bpe(texts=["some text"], vocab_size=262, progress=True)
    captured = capsys.readouterr()
    assert "merges" in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"caf\xe9", "byte 3"),
        (b"a\0b", "NUL"),
        ("text".encode("utf-16"), "NUL"),
        (b"", "corpus is empty"),
    ],
)
def test_bad_files(tmp_path, content, problem):
    file = tmp_path / "corpus.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        train_bpe([file], vocab_size=300)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            train_bpe([path], vocab_size=300)


def test_bad_arguments():
    with pytest.raises(TokenizerError, match="vocab_size=259"):
        train_bpe(texts=["text"], vocab_size=259)
    with pytest.raises(TokenizerError, match="exactly one"):
        train_bpe(vocab_size=300)
    with pytest.raises(TokenizerError, match="exactly one"):
        train_bpe(["a.txt"], texts=["text"], vocab_size=300)
    with pytest.raises(TokenizerError, match="'gpt5'"):
        train_bpe(texts=["text"], vocab_size=300, pattern="gpt5")
