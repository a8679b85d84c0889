import json
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from gptlab.errors import DataError, TokenizerError
from gptlab.tokenizer import train_bpe
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS, split
from gptlab.tokenizer.formats.alphabet import spelled_bytes
from gptlab.tokenizer.merge_learner import MergeLearner
from gptlab.tokenizer.trainer import as_bytes


def naive_merges(chunks, num_merges, order=tuple(range(256))):
    """Recount all pairs before each merge; the lowest of the most frequent pairs wins."""
    rank = {byte: i for i, byte in enumerate(order)}
    words = [([rank[byte] for byte in chunk], count) for chunk, count in chunks.items()]
    tokens = [bytes([byte]) for byte in order]
    merges = []
    while len(merges) < num_merges:
        counts = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        if not counts:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((tokens[pair[0]], tokens[pair[1]]))
        tokens.append(b"".join(merges[-1]))
        words = [(join(word, pair, len(tokens) - 1), count) for word, count in words]
    return merges


def chunks_of(text, pattern="gpt4"):
    return Counter(chunk.encode("utf-8", "surrogatepass") for chunk in split(text, pattern))


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
# Hugging Face's trainer can't take lone surrogates, and its Unicode tables are younger or older.
corpora = few_letters | runs | words | st.text("aé中🦆\u0301\0\n \t'sS1²", max_size=40)


@given(
    (corpora | st.text(max_size=40)).filter(bool),
    st.integers(0, 40),
    st.sampled_from(["gpt2", "gpt4"]),
)
def test_same_merges_as_the_naive_trainer(text, num_merges, pattern):
    tokenizer = train_bpe(texts=[text], vocab_size=260 + num_merges, pattern=pattern)
    assert tokenizer.merges == naive_merges(chunks_of(text, pattern), num_merges)


@pytest.mark.parametrize("few", [0, 3, 1000])
@pytest.mark.parametrize("large", [0, 1000])
def test_the_learner_alone_over_thousands_of_corpora(few, large, monkeypatch):
    # Whether places are merged one by one or by arrays, and how wide they are, changes nothing.
    monkeypatch.setattr("gptlab.tokenizer.merge_learner._FEW", few)
    monkeypatch.setattr("gptlab.tokenizer.merge_learner._LARGE", large)
    random = Random(few)
    for _ in range(700):
        letters = random.choice([b"ab", b"abc", bytes(range(256))])
        heaviest = random.choice([1, 3, 100, 10**12])
        chunks = {
            bytes(random.choices(letters, k=random.randint(1, 12))): random.randint(1, heaviest)
            for _ in range(random.randint(1, 12))
        }
        order = bytes(random.sample(range(256), 256))
        num_merges = random.randint(0, 60)
        learned = as_bytes(MergeLearner(chunks, order).learn(num_merges), order)
        assert learned == naive_merges(chunks, num_merges, order)


@pytest.mark.parametrize("words", [3, 30, 300])
def test_the_floor_changes_nothing(words):
    # Counts fall off as in text, so that the floor proves too high several times.
    random = Random(words)
    chunks = {random.randbytes(random.randint(2, 9)): 10**6 // rank for rank in range(1, words + 1)}
    learned = MergeLearner(chunks, bytes(range(256))).learn(10**6)
    assert as_bytes(learned, bytes(range(256))) == naive_merges(chunks, 10**6)


def huggingface_merges(texts, vocab_size, pattern):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERNS[pattern]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(spelled_bytes(left), spelled_bytes(right)) for left, right in merges]


@settings(max_examples=200)
@given(st.lists(corpora, min_size=1, max_size=4).filter(any), st.sampled_from(["gpt2", "gpt4"]))
def test_same_merges_as_hugging_face(texts, pattern):
    tokenizer = train_bpe(
        texts=texts, vocab_size=320, pattern=pattern, tie_break="huggingface", special_tokens=()
    )
    assert tokenizer.merges == huggingface_merges(texts, 320, pattern)


def test_hugging_face_breaks_ties_in_another_order():
    texts = ["\n\n zz"]
    assert huggingface_merges(texts, 257, "gpt4") == [(b"z", b"z")]
    assert train_bpe(texts=texts, vocab_size=261).merges == [(b"\n", b"\n")]
    by_their_order = train_bpe(texts=texts, vocab_size=261, tie_break="huggingface")
    assert by_their_order.merges == [(b"z", b"z")]


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
    with pytest.warns(UserWarning, match="vocab_size=5000 .* 2 merges, .* 262 ids"):
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
        (b"caf\xe9", "offset 3"),
        (b"a\0b", "binary"),
        ("text".encode("utf-16"), "binary"),
        (b"", "is empty"),
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
