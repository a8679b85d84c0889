import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gptlab.config import SamplingConfig
from gptlab.generation.sampling import choose, min_p, repetition_penalty, top_k, top_p

NO_IDS = torch.zeros(0, dtype=torch.int64)


def random_logits(seed, *shape, ties=False):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    return logits.round() if ties else logits


def draw(logits, config=None, *, context=NO_IDS, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return choose(logits, context, config or SamplingConfig(**settings), generator)


seeds = st.integers(0, 10_000)


@settings(deadline=None)
@given(seeds, st.integers(1, 30), st.booleans())
def test_top_k_agrees_with_transformers(seed, k, ties):
    logits = random_logits(seed, 3, 20, ties=ties)
    assert torch.equal(top_k(logits, k), TopKLogitsWarper(k)(None, logits.clone()))


@settings(deadline=None)
@given(seeds, st.floats(0.01, 0.99), st.booleans())
def test_top_p_agrees_with_transformers(seed, p, ties):
    logits = random_logits(seed, 3, 20, ties=ties)
    ours, theirs = top_p(logits, p), TopPLogitsWarper(p)(None, logits.clone())
    # Which of several equal tokens is kept is nobody's promise.
    assert torch.equal(ours.sort().values, theirs.sort().values)


@settings(deadline=None)
@given(seeds, st.floats(0.0, 1.0), st.booleans())
def test_min_p_agrees_with_transformers(seed, p, ties):
    logits = random_logits(seed, 3, 20, ties=ties)
    theirs = MinPLogitsWarper(p)(None, logits.clone())
    undecided = (logits - logits.amax(-1, keepdim=True) - math.log(max(p, 1e-30))).abs() < 1e-5
    assert torch.equal(min_p(logits, p)[~undecided], theirs[~undecided])


@settings(deadline=None)
@given(seeds, st.floats(0.5, 2.0), st.integers(1, 30))
def test_repetition_penalty_agrees_with_transformers(seed, penalty, length):
    logits = random_logits(seed, 3, 20)
    context = torch.randint(20, (3, length), generator=torch.Generator().manual_seed(seed))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(context, logits.clone())
    torch.testing.assert_close(repetition_penalty(logits, context, penalty), theirs)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 20), st.floats(0.1, 0.99), st.floats(0.0, 0.9))
def test_all_together_are_applied_in_the_order_of_transformers(seed, k, p, least):
    logits = random_logits(seed, 1, 20)
    context = torch.tensor([[1, 5, 5]])
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(context, logits.clone())
    for warper in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(k), TopPLogitsWarper(p)):
        theirs = warper(None, theirs)
    theirs = MinPLogitsWarper(least)(None, theirs) if least else theirs
    expected = torch.multinomial(
        theirs.softmax(-1), 1, generator=torch.Generator().manual_seed(seed)
    )
    config = SamplingConfig(temperature=0.7, top_k=k, top_p=p, min_p=least, repetition_penalty=1.3)
    assert draw(logits[0], config, context=context[0], seed=seed) == expected.item()


FILTERS = st.one_of(
    st.tuples(st.just(top_k), st.integers(1, 30)),
    st.tuples(st.just(top_p), st.floats(0, 1, exclude_min=True)),
    st.tuples(st.just(min_p), st.floats(0, 1)),
)


@settings(deadline=None)
@given(seeds, FILTERS, st.booleans())
def test_a_filter_keeps_the_likeliest_and_changes_nothing_that_it_keeps(seed, chosen, ties):
    function, limit = chosen
    logits = random_logits(seed, 2, 3, 20, ties=ties)
    before = logits.clone()
    filtered = function(logits, limit)
    assert torch.equal(logits, before)
    assert torch.equal(filtered.amax(-1), logits.amax(-1))
    kept = filtered.isfinite()
    assert torch.equal(filtered[kept], logits[kept])
    for i in range(2):
        for j in range(3):
            assert torch.equal(function(logits[i, j], limit), filtered[i, j])


@pytest.mark.parametrize(("function", "limit"), [(top_k, 99), (top_p, 1.0), (min_p, 0.0)])
@pytest.mark.parametrize("spread", [1, 100])
def test_limits_that_remove_nothing(function, limit, spread):
    logits = random_logits(0, 50, 30) * spread
    assert torch.equal(function(logits, limit), logits)


def test_a_filter_leaves_out_what_another_removed():
    logits = top_k(random_logits(0, 20), 3)
    assert top_p(logits, 0.99).isfinite().sum() <= 3
    assert min_p(logits, 0.01).isfinite().sum() <= 3


@given(seeds)
def test_greedy_takes_the_likeliest_and_nothing_from_the_generator(seed):
    logits = random_logits(seed, 20)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    config = SamplingConfig(temperature=0, top_k=1)
    assert choose(logits, NO_IDS, config, generator) == logits.argmax().item()
    assert torch.equal(generator.get_state(), state)


def test_greedy_heeds_the_repetition_penalty():
    logits = torch.tensor([3.0, 2.0, -1.0])
    assert draw(logits, temperature=0, context=torch.tensor([0]), repetition_penalty=2.0) == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-37])
def test_a_low_temperature_nears_greedy(temperature):
    logits = random_logits(0, 20) * 10
    assert draw(logits, temperature=temperature) == logits.argmax().item()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"min_p": 0.4}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
    ],
)
def test_draws_follow_the_distribution(settings, expected):
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    config, generator, draws = SamplingConfig(**settings), torch.Generator().manual_seed(0), 3000
    counts = [0] * 4
    for _ in range(draws):
        counts[choose(logits, NO_IDS, config, generator)] += 1
    cells = [(count, draws * share) for count, share in zip(counts, expected, strict=True)]
    assert all(count == 0 for count, mean in cells if mean == 0)
    chi_square = sum((count - mean) ** 2 / mean for count, mean in cells if mean)
    # Exceeded once in a thousand times by a right sampler with 3 degrees of freedom.
    assert chi_square < 16.3
