"""Penalties, biases and bans against transformers' and against naive loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from gptlab.errors import ConfigError
from gptlab.generation.penalties import (
    ban,
    frequency_penalty,
    logit_bias,
    padded,
    presence_penalty,
    repetition_penalty,
)

VOCAB = 12
seeds = st.integers(0, 10_000)
ids = st.integers(0, VOCAB - 1)
contexts = st.lists(st.lists(ids, max_size=9), min_size=1, max_size=4)


def random_logits(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


@settings(deadline=None)
@given(seeds, st.floats(0.5, 2.0), st.integers(1, 30))
def test_repetition_penalty_agrees_with_transformers(seed, penalty, length):
    logits = random_logits(seed, 3, 20)
    context = torch.randint(20, (3, length), generator=torch.Generator().manual_seed(seed))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(context, logits.clone())
    torch.testing.assert_close(repetition_penalty(logits, context, penalty), theirs)


def repeated(logits, context, penalty):
    for token in set(context):
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty


def present(logits, context, penalty):
    for token in set(context):
        logits[token] -= penalty


def frequent(logits, context, penalty):
    for token in context:
        logits[token] -= penalty


PENALTIES = [
    (repetition_penalty, repeated),
    (presence_penalty, present),
    (frequency_penalty, frequent),
]


@pytest.mark.parametrize(("fast", "slow"), PENALTIES)
def test_penalties_of_rows_of_any_lengths_against_a_loop(fast, slow):
    @settings(deadline=None)
    @given(seeds, contexts, st.floats(0.1, 2.0))
    def check(seed, rows, penalty):
        logits = random_logits(seed, len(rows), VOCAB)
        before, expected = logits.clone(), logits.clone()
        for row, context in enumerate(rows):
            slow(expected[row], context, penalty)
        penalised = fast(logits, padded(rows, logits.device), penalty)
        torch.testing.assert_close(penalised, expected)
        assert torch.equal(logits, before)

    check()


@pytest.mark.parametrize(
    ("function", "neutral"), [(f, float(f is repetition_penalty)) for f, _ in PENALTIES]
)
def test_a_neutral_penalty_is_no_work(function, neutral):
    logits = random_logits(0, 2, VOCAB)
    assert function(logits, torch.ones(2, 3, dtype=torch.int64), neutral) is logits
    assert function(logits, torch.ones(2, 0, dtype=torch.int64), 1.5) is logits


def test_negative_penalties_make_repetition_likelier():
    logits, seen = torch.zeros(3), torch.tensor([1, 1])
    assert presence_penalty(logits, seen, -0.5).tolist() == [0, 0.5, 0]
    assert frequency_penalty(logits, seen, -0.5).tolist() == [0, 1, 0]


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan])
def test_a_repetition_penalty_is_above_0(penalty):
    with pytest.raises(ConfigError, match=r"repetition_penalty is .*; choose a number above 0"):
        repetition_penalty(torch.zeros(3), torch.tensor([1]), penalty)


@settings(deadline=None)
@given(seeds, st.dictionaries(ids, st.floats(-10, 10), min_size=1))
def test_logit_bias_agrees_with_transformers(seed, bias):
    logits = random_logits(seed, 3, VOCAB)
    theirs = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    none = torch.zeros(3, 0, dtype=torch.int64)
    before = logits.clone()
    torch.testing.assert_close(logit_bias(logits, bias), theirs(none, logits))
    torch.testing.assert_close(logit_bias(logits[0], bias), theirs(none, logits)[0])
    assert torch.equal(logits, before)


def test_no_bias_is_no_work():
    logits = random_logits(0, 2, VOCAB)
    assert logit_bias(logits, {}) is logits


@pytest.mark.parametrize("token", [VOCAB, -1])
def test_a_bias_outside_the_vocabulary(token):
    message = f"logit_bias has the id {token}, but the vocabulary has 12 tokens; choose .* to 11"
    with pytest.raises(ConfigError, match=message):
        logit_bias(torch.zeros(1, VOCAB), {3: 1.0, token: 1.0})


few_ids = st.integers(0, 2)
sequences = st.lists(st.lists(few_ids, min_size=1, max_size=3), min_size=1, max_size=5)


@settings(deadline=None)
@given(
    seeds, sequences, st.lists(st.lists(few_ids, min_size=4, max_size=4), min_size=1, max_size=4)
)
def test_bans_agree_with_transformers(seed, banned, rows):
    logits = random_logits(seed, len(rows), VOCAB)
    theirs = NoBadWordsLogitsProcessor(banned)(torch.tensor(rows), logits.clone())
    assert torch.equal(ban(logits, rows, banned), theirs)


@given(seeds, sequences, contexts)
def test_bans_of_rows_of_any_lengths_against_a_loop(seed, banned, rows):
    logits = random_logits(seed, len(rows), VOCAB)
    expected = logits.clone()
    for row, context in enumerate(rows):
        for sequence in banned:
            text = [*context, sequence[-1]]
            if text[-len(sequence) :] == sequence:
                expected[row, sequence[-1]] = -math.inf
    before = logits.clone()
    assert torch.equal(ban(logits, [tuple(row) for row in rows], banned), expected)
    assert torch.equal(logits, before)


def test_what_bans_nothing_is_no_work():
    logits = random_logits(0, 2, VOCAB)
    assert ban(logits, [[1], [2]], []) is logits
    assert ban(logits, [[1], [2]], [[], [3, 4]]) is logits


def test_a_ban_outside_the_vocabulary():
    with pytest.raises(ConfigError, match="banned has the id 12, but the vocabulary has 12 tokens"):
        ban(torch.zeros(1, VOCAB), [[1]], [[12]])
