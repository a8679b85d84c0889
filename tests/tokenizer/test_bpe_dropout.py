from collections import Counter
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer, train_bpe

CORPUS = "The cat's naïve 🙂 aaaa baaab, 12345 cats!\r\n\n\tThe 中文字 end.  " * 3
TOKENIZER = train_bpe(texts=[CORPUS], vocab_size=300)
texts = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from(CORPUS))


def distribution(parts, merges, dropout):
    """Probability of each outcome, step by step as the paper says it."""
    candidates = sorted(
        (merges.index(pair), i) for i, pair in enumerate(pairwise(parts)) if pair in merges
    )
    outcomes = Counter()
    reached = 1.0
    for _, i in candidates:
        merged = (*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :])
        for outcome, probability in distribution(merged, merges, dropout).items():
            outcomes[outcome] += reached * (1 - dropout) * probability
        reached *= dropout
    outcomes[parts] += reached
    return outcomes


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("text", ["abcab", "aaaaa"])
def test_outcomes_are_as_frequent_as_in_the_paper(text, dropout):
    merges = [
        (b"a", b"b"),
        (b"a", b"a"),
        (b"b", b"c"),
        (b"ab", b"c"),
        (b"aa", b"a"),
        (b"aa", b"aa"),
    ]
    tokenizer = BPETokenizer(merges)
    tries = 2000
    seen = Counter(
        tuple(map(tokenizer.token_bytes, tokenizer.encode(text, dropout=dropout, seed=seed)))
        for seed in range(tries)
    )
    expected = distribution(tuple(bytes([byte]) for byte in text.encode()), merges, dropout)
    assert seen.keys() <= expected.keys()
    for outcome, probability in expected.items():
        deviation = sqrt(probability * (1 - probability) / tries)
        assert abs(seen[outcome] / tries - probability) < 5 * deviation + 1e-9


@given(texts, st.floats(0, 1), st.integers(0, 9))
def test_text_comes_back_and_a_seed_repeats_it(text, dropout, seed):
    ids = TOKENIZER.encode(text, dropout=dropout, seed=seed)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.encode(text, dropout=dropout, seed=seed) == ids


@given(texts)
def test_the_ends_of_the_scale(text):
    assert TOKENIZER.encode(text, dropout=0.0, seed=1) == TOKENIZER.encode(text)
    data = list(text.encode("utf-8", "surrogatepass"))
    assert TOKENIZER.encode(text, dropout=1.0) == data


def test_seeds_differ_and_special_tokens_stay():
    assert len({tuple(TOKENIZER.encode(CORPUS, dropout=0.5, seed=seed)) for seed in range(9)}) == 9
    assert TOKENIZER.encode(CORPUS, dropout=0.5) != TOKENIZER.encode(CORPUS, dropout=0.5)
    assert TOKENIZER.encode("<EOS>", allowed_special="all", dropout=1.0) == [TOKENIZER.eos_id]


def test_a_long_chunk_is_no_trap():
    text = "a" * 30_000
    assert TOKENIZER.decode(TOKENIZER.encode(text, dropout=0.3, seed=0)) == text


@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan")])
def test_dropout_is_a_probability(dropout):
    with pytest.raises(TokenizerError, match=f"dropout is {dropout}.*from 0 to 1"):
        TOKENIZER.encode("a", dropout=dropout)
