"""Temperature and filters against transformers'."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from gptlab.errors import ConfigError
from gptlab.generation.filters import min_p, temperature, top_k, top_p, typical_p

seeds = st.integers(0, 10_000)
shares = st.floats(0.01, 0.99)
# Few of so many suffice where the logits are spread, and not where they are flat.
sizes = st.sampled_from([1, 20, 200, 700])


def random_logits(seed, *shape, ties=False, spread=3):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread
    return logits.round() if ties else logits


def is_undecided(ordered, p):
    """Whether a sum of probabilities (..., V) may round to either side of p."""
    return ((ordered.cumsum(-1) - p).abs() < 1e-5).any(-1)


@settings(deadline=None)
@given(seeds, st.floats(0.05, 5))
def test_temperature_agrees_with_transformers(seed, value):
    logits = random_logits(seed, 3, 20)
    theirs = TemperatureLogitsWarper(value)(None, logits)
    torch.testing.assert_close(temperature(logits, value).softmax(-1), theirs.softmax(-1))
    assert (temperature(logits, value).amax(-1) == 0).all()


@given(seeds)
def test_temperature_0_leaves_the_lowest_of_the_likeliest(seed):
    logits = random_logits(seed, 2, 3, 20, ties=True)
    probabilities = temperature(logits, 0).softmax(-1)
    for row, expected in zip(probabilities.view(-1, 20), logits.view(-1, 20).tolist(), strict=True):
        assert row.nonzero().tolist() == [[expected.index(max(expected))]]
        assert row.sum() == 1


@settings(deadline=None)
@given(seeds, st.integers(1, 30), st.booleans())
def test_top_k_agrees_with_transformers(seed, k, ties):
    logits = random_logits(seed, 3, 20, ties=ties)
    assert torch.equal(top_k(logits, k), TopKLogitsWarper(k)(None, logits.clone()))


@settings(deadline=None)
@given(seeds, shares, sizes, st.sampled_from([1, 3, 20]), st.booleans())
def test_top_p_agrees_with_transformers(seed, p, size, spread, ties):
    logits = random_logits(seed, 3, size, ties=ties, spread=spread)
    ours, theirs = top_p(logits, p), TopPLogitsWarper(p)(None, logits.clone())
    undecided = is_undecided(logits.sort(descending=True).values.softmax(-1), p)
    # Which of several equal tokens is kept they leave open.
    same = (ours.sort().values == theirs.sort().values).all(-1)
    assert (same | undecided).all()


@settings(deadline=None)
@given(seeds, shares, sizes, st.sampled_from([1, 3, 20]))
def test_typical_p_agrees_with_transformers(seed, p, size, spread):
    logits = random_logits(seed, 3, size, spread=spread)
    ours, theirs = typical_p(logits, p), TypicalLogitsWarper(p)(None, logits.clone())
    information = -logits.double().log_softmax(-1)
    probabilities = logits.double().softmax(-1)
    entropy = (probabilities * information).sum(-1, keepdim=True)
    order = (information - entropy).abs().argsort()
    undecided = is_undecided(probabilities.gather(-1, order), p)
    assert ((ours == theirs).all(-1) | undecided).all()


@settings(deadline=None)
@given(seeds, st.floats(0.0, 1.0), st.booleans())
def test_min_p_agrees_with_transformers(seed, p, ties):
    logits = random_logits(seed, 3, 20, ties=ties)
    theirs = MinPLogitsWarper(p)(None, logits.clone())
    undecided = (logits - logits.amax(-1, keepdim=True) - math.log(max(p, 1e-30))).abs() < 1e-5
    assert torch.equal(min_p(logits, p)[~undecided], theirs[~undecided])


def fewest_slowly(logits, rank, p):
    """Ids in order of rank, lower ones first among equals, until they hold p."""
    probabilities, kept, mass = logits.double().softmax(-1).tolist(), [], 0.0
    for token in sorted(range(len(rank)), key=lambda token: (-rank[token], token)):
        if mass >= p and kept:
            break
        kept.append(token)
        mass += probabilities[token]
    return sorted(kept)


@settings(deadline=None)
@given(seeds, shares, sizes, st.sampled_from([0, 1, 3]))
def test_top_p_keeps_the_lowest_of_equal_ids(seed, p, size, spread):
    logits = random_logits(seed, size, ties=True, spread=spread)
    kept = top_p(logits, p).isfinite().nonzero().flatten().tolist()
    expected = fewest_slowly(logits, logits.tolist(), p)
    if not is_undecided(logits.sort(descending=True).values.softmax(-1), p):
        assert kept == expected


def test_typical_p_may_remove_the_likeliest():
    logits = torch.tensor([0.3, *[0.1] * 7]).log()
    assert typical_p(logits, 0.4).isfinite().tolist() == [False, *[True] * 4, *[False] * 3]


FILTERS = st.one_of(
    st.tuples(st.just(top_k), st.integers(1, 30)),
    st.tuples(st.just(top_p), st.floats(0, 1, exclude_min=True)),
    st.tuples(st.just(min_p), st.floats(0, 1)),
    st.tuples(st.just(typical_p), st.floats(0, 1, exclude_min=True)),
)


@settings(deadline=None)
@given(seeds, FILTERS, st.booleans(), st.sampled_from([20, 200]))
def test_a_filter_keeps_some_and_changes_nothing_that_it_keeps(seed, chosen, ties, size):
    function, limit = chosen
    logits = random_logits(seed, 2, 3, size, ties=ties)
    before = logits.clone()
    filtered = function(logits, limit)
    assert torch.equal(logits, before)
    kept = filtered.isfinite()
    assert kept.any(-1).all()
    assert torch.equal(filtered[kept], logits[kept])
    if function is not typical_p:
        assert torch.equal(filtered.amax(-1), logits.amax(-1))
    for i in range(2):
        for j in range(3):
            assert torch.equal(function(logits[i, j], limit), filtered[i, j])


@pytest.mark.parametrize(
    ("function", "limit"), [(top_k, 99), (top_p, 1.0), (min_p, 0.0), (typical_p, 1.0)]
)
@pytest.mark.parametrize("spread", [1, 300])
def test_limits_that_remove_nothing(function, limit, spread):
    logits = random_logits(0, 50, 30, spread=spread)
    assert torch.equal(function(logits, limit), logits)


def test_a_filter_leaves_out_what_another_removed():
    logits = top_k(random_logits(0, 200), 3)
    for function, limit in ((top_p, 0.99), (min_p, 0.01), (typical_p, 0.99)):
        filtered = function(logits, limit)
        assert 1 <= filtered.isfinite().sum() <= 3


@pytest.mark.parametrize(
    ("function", "limit", "message"),
    [
        (temperature, -0.1, "temperature is -0.1; choose a number from 0, which is greedy"),
        (temperature, math.nan, "temperature is nan"),
        (top_k, 0, "top_k is 0; choose 1 or more"),
        (top_p, 0.0, "top_p is 0.0; choose a number above 0 and up to 1"),
        (top_p, 1.1, "top_p is 1.1; choose"),
        (typical_p, math.nan, "typical_p is nan; choose a number above 0"),
        (min_p, -0.1, "min_p is -0.1; choose a number from 0 to 1"),
    ],
)
def test_limits_out_of_range(function, limit, message):
    with pytest.raises(ConfigError, match=message):
        function(torch.zeros(3), limit)
