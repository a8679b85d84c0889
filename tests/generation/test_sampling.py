"""What is drawn: the parts against slow oracles, and together against transformers."""

import itertools
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
    TypicalLogitsWarper,
)

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError, GenerationError
from gptlab.generation import filters
from gptlab.generation.sampling import choose, draw, greedy, probabilities, process

VOCAB = 20
seeds = st.integers(0, 10_000)


def random_logits(seed, *shape, ties=False):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    return logits.round() if ties else logits


def random_uniforms(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, dtype=torch.float64, generator=generator)


def choose_plainly(logits, config, uniforms, **arguments):
    rows = len(logits)
    return choose(
        logits, config, uniforms, **{"contexts": [[0]] * rows, "new": [0] * rows, **arguments}
    )


@st.composite
def configs(draw):
    """Some settings away from their defaults."""
    choices = {
        "temperature": st.sampled_from([0, 0.3, 0.7, 1.5]),
        "top_k": st.integers(1, 30),
        "top_p": st.floats(0.05, 1),
        "min_p": st.floats(0, 0.9),
        "typical_p": st.floats(0.05, 1),
        "repetition_penalty": st.floats(0.5, 2),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-3, 3)),
    }
    names = draw(st.sets(st.sampled_from(sorted(choices))))
    return SamplingConfig(**{name: draw(choices[name]) for name in names})


@st.composite
def batches(draw):
    """Logits, uniforms, and what goes with them, of a few rows."""
    rows, seed = draw(st.integers(1, 4)), draw(seeds)
    ids = st.integers(0, VOCAB - 1)
    contexts = [draw(st.lists(ids, min_size=1, max_size=8)) for _ in range(rows)]
    allowed = torch.rand(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) < 0.7
    allowed[:, seed % VOCAB] = True
    return (
        random_logits(seed, rows, VOCAB, ties=draw(st.booleans())),
        random_uniforms(seed, rows),
        {
            "contexts": contexts,
            "new": [draw(st.integers(0, len(context))) for context in contexts],
            "banned": draw(st.lists(st.lists(ids, min_size=2, max_size=3), max_size=3)),
            "allowed_BV": draw(st.sampled_from([None, allowed])),
        },
    )


def row_alone(arguments, row):
    allowed = arguments["allowed_BV"]
    return {
        "contexts": [arguments["contexts"][row]],
        "new": [arguments["new"][row]],
        "banned": arguments["banned"],
        "allowed_BV": None if allowed is None else allowed[row : row + 1],
    }


@settings(deadline=None, max_examples=200)
@given(batches(), configs())
def test_each_row_gives_the_id_that_it_gives_alone(batch, config):
    logits, uniforms, arguments = batch
    try:
        together = choose(logits, config, uniforms, **arguments)
    except GenerationError:
        return
    for row, token in enumerate(together):
        one = slice(row, row + 1)
        alone = choose(logits[one], config, uniforms[one], **row_alone(arguments, row))
        assert alone.tolist() == [token]


@settings(deadline=None, max_examples=200)
@given(batches(), configs())
def test_choosing_is_processing_heating_filtering_and_drawing(batch, config):
    logits, uniforms, arguments = batch
    before = logits.clone()
    processed = process(logits, config, **arguments)
    expected = draw(probabilities(processed, config), uniforms)
    assert torch.equal(logits, before)
    if (expected < 0).any():
        with pytest.raises(
            GenerationError, match=f"no token is left to draw in row {expected.argmin()}"
        ):
            choose(logits, config, uniforms, **arguments)
    else:
        assert torch.equal(choose(logits, config, uniforms, **arguments), expected)


@settings(deadline=None)
@given(seeds, configs(), st.booleans())
def test_probabilities_are_the_filters_over_the_whole_vocabulary_in_order(seed, config, ties):
    logits = random_logits(seed, 3, VOCAB, ties=ties)
    expected = filters.temperature(logits, config.temperature)
    if config.temperature > 0:
        for name in ("top_k", "top_p", "min_p", "typical_p"):
            if getattr(config, name) is not None:
                expected = getattr(filters, name)(expected, getattr(config, name))
    expected = expected.softmax(-1)
    ours = probabilities(logits, config)
    torch.testing.assert_close(ours, expected)
    assert torch.equal(ours > 0, expected > 0)


@settings(deadline=None)
@given(seeds, st.integers(1, VOCAB), st.floats(0.1, 0.99), st.floats(0.01, 0.9))
def test_all_together_are_applied_in_the_order_of_transformers(seed, k, p, least):
    logits = random_logits(seed, 1, VOCAB)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[1, 5, 5]]), logits.clone())
    for warper in (
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(k),
        TopPLogitsWarper(p),
        MinPLogitsWarper(least),
        TypicalLogitsWarper(0.8),
    ):
        theirs = warper(None, theirs)
    config = SamplingConfig(
        temperature=0.7, top_k=k, top_p=p, min_p=least, typical_p=0.8, repetition_penalty=1.3
    )
    processed = process(logits, config, contexts=[[1, 5, 5]], new=[1])
    torch.testing.assert_close(probabilities(processed, config), theirs.softmax(-1))


def test_what_precedes_temperature_in_its_order():
    logits = torch.tensor([[4.0, 4.0, -1.0, 0.0, 2.0, 3.0]])
    config = SamplingConfig(
        repetition_penalty=2,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={0: 1.0, 5: 9.0},
    )
    processed = process(
        logits,
        config,
        contexts=[[0, 2, 1, 1]],
        new=[2],
        banned=[[5], [1, 4], [2, 3]],
        allowed_BV=torch.tensor([[True] * 3 + [False] + [True] * 2]),
    )
    expected = [4 / 2 + 1, 4 / 2 - 0.5 - 2 * 0.25, -1 * 2, -math.inf, -math.inf, -math.inf]
    assert processed.tolist() == [expected]


@settings(deadline=None)
@given(batches(), st.floats(0.5, 2), st.floats(-2, 2), st.floats(-2, 2))
def test_which_ids_each_penalty_counts(batch, repetition, presence, frequency):
    logits, _, arguments = batch
    contexts, new = arguments["contexts"], arguments["new"]
    config = SamplingConfig(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency
    )
    expected = logits.clone()
    for row, (context, count) in enumerate(zip(contexts, new, strict=True)):
        for token in set(context):
            expected[row, token] *= repetition if logits[row, token] < 0 else 1 / repetition
        for number in range(len(context) - count, len(context)):
            expected[row, context[number]] -= frequency
        for token in set(context[len(context) - count :]):
            expected[row, token] -= presence
    torch.testing.assert_close(process(logits, config, contexts=contexts, new=new), expected)


def test_defaults_are_no_work():
    logits = random_logits(0, 2, VOCAB)
    assert process(logits, SamplingConfig(), contexts=[[1], [2]], new=[1, 1]) is logits


def draw_slowly(weights, uniform):
    total, target = 0.0, uniform * math.fsum(weights)
    for token, weight in enumerate(weights):
        total += weight
        if total > target and weight > 0:
            return token
    return max((token for token, weight in enumerate(weights) if weight > 0), default=-1)


JUST_BELOW_1 = 1 - 2.0**-53
uniforms = st.sampled_from([0.0, 0.5, JUST_BELOW_1]) | st.floats(0, 1, exclude_max=True)
weights = st.lists(st.sampled_from([0.0, 0.0, 0.125, 0.25, 1.0]), min_size=1, max_size=8)


@settings(deadline=None, max_examples=300)
@given(weights, uniforms)
def test_draw_against_a_loop(row, uniform):
    drawn = draw(torch.tensor([row]), torch.tensor([uniform], dtype=torch.float64))
    assert drawn.tolist() == [draw_slowly(row, uniform)]


@settings(deadline=None)
@given(seeds, st.integers(1, 300), uniforms)
def test_draw_never_gives_an_impossible_id(seed, size, uniform):
    generator = torch.Generator().manual_seed(seed)
    row = torch.rand(4, size, generator=generator) * (
        torch.rand(4, size, generator=generator) < 0.3
    )
    drawn = draw(row, torch.full((4,), uniform, dtype=torch.float64))
    for weights_V, token in zip(row, drawn.tolist(), strict=True):
        assert (weights_V[token] > 0) if token >= 0 else (weights_V.sum() == 0)
    if uniform == 0:
        assert drawn.tolist() == [
            next((i for i, weight in enumerate(r) if weight > 0), -1) for r in row.tolist()
        ]


def test_draw_never_gives_an_impossible_id_however_sums_round(monkeypatch):
    plain = torch.Tensor.cumsum

    def parallel(row, dim):
        return plain(row, dim) + 1e-9 * (row == 0)

    monkeypatch.setattr(torch.Tensor, "cumsum", parallel)
    row = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    for uniform, expected in ((0.0, 1), (0.5, 3), (JUST_BELOW_1, 3)):
        assert draw(row, torch.tensor([uniform], dtype=torch.float64)).tolist() == [expected]


def test_draw_tells_a_row_without_probabilities():
    rows = torch.tensor([[0.0, 0.0], [math.nan, math.nan], [0.0, 1.0]])
    assert draw(rows, torch.zeros(3, dtype=torch.float64)).tolist() == [-1, -1, 1]


@pytest.mark.parametrize("ties", [False, True])
def test_greedy_takes_the_lowest_of_the_likeliest(ties):
    logits = random_logits(3, 50, VOCAB, ties=ties)
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert greedy(logits).tolist() == expected
    config = SamplingConfig(temperature=0, top_k=3, top_p=0.1)
    for uniform in (0.0, JUST_BELOW_1):
        uniforms_B = torch.full((50,), uniform, dtype=torch.float64)
        assert choose_plainly(logits, config, uniforms_B).tolist() == expected
        assert draw(probabilities(logits, config), uniforms_B).tolist() == expected


@pytest.mark.parametrize("value", [1e-3, 1e-20, 1e-37])
def test_a_low_temperature_nears_greedy(value):
    logits = random_logits(0, 5, VOCAB) * 10
    config = SamplingConfig(temperature=value)
    assert torch.equal(choose_plainly(logits, config, random_uniforms(0, 5)), logits.argmax(-1))


def test_logits_of_16_bits_are_drawn_in_32():
    logits = random_logits(0, 4, VOCAB).bfloat16()
    for config in (SamplingConfig(temperature=0), SamplingConfig(temperature=0.7, top_k=4)):
        drawn = choose_plainly(logits, config, random_uniforms(0, 4))
        assert torch.equal(drawn, choose_plainly(logits.float(), config, random_uniforms(0, 4)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"min_p": 0.4}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"typical_p": 0.3}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"logit_bias": {3: math.log(4)}}, [4 / 13, 3 / 13, 2 / 13, 4 / 13]),
    ],
)
def test_draws_follow_the_distribution(settings, expected):
    rows = 3000
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(rows, -1)
    drawn = choose_plainly(logits, SamplingConfig(**settings), random_uniforms(0, rows))
    counts = drawn.bincount(minlength=4).tolist()
    cells = [(count, rows * share) for count, share in zip(counts, expected, strict=True)]
    assert all(count == 0 for count, mean in cells if mean == 0)
    chi_square = sum((count - mean) ** 2 / mean for count, mean in cells if mean)
    # Exceeded once in a thousand times by a right sampler with 3 degrees of freedom.
    assert chi_square < 16.3


WAYS = [{"temperature": 0}, {}, {"top_k": 2}, {"top_p": 0.5, "typical_p": 0.5, "min_p": 0.1}]
BROKEN = {
    "nan": [0.0, math.nan, 1.0, 0.5],
    "inf": [0.0, math.inf, 1.0, 0.5],
    "-inf": [-math.inf] * 4,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", BROKEN)
def test_logits_that_are_not_finite(way, broken):
    logits = torch.tensor([[0.0, -math.inf, 1.0, 2.0], BROKEN[broken]])
    message = f"the largest of the model's logits is {broken} in row 1; load a sound checkpoint"
    with pytest.raises(GenerationError, match=message) as raised:
        choose_plainly(logits, SamplingConfig(**way), random_uniforms(0, 2))
    assert "\n" not in str(raised.value)
    assert probabilities(logits, SamplingConfig(**way)).isnan().all(-1).tolist() == [False, True]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_left_to_draw(way):
    logits, config = torch.zeros(2, 3), SamplingConfig(**way)
    allowed = torch.tensor([[True] * 3, [False] * 3])
    for arguments in ({"allowed_BV": allowed}, {"banned": [[0], [1], [2]]}):
        with pytest.raises(
            GenerationError, match=r"no token is left .* row [01]; ban fewer, or allow"
        ):
            choose_plainly(logits, config, random_uniforms(0, 2), **arguments)
    allowed[1, 2] = True
    drawn = choose_plainly(logits, config, random_uniforms(0, 2), allowed_BV=allowed)
    assert drawn[1] == 2


def test_settings_that_make_logits_infinite():
    config = SamplingConfig(logit_bias={0: 3e38})
    with pytest.raises(GenerationError, match="penalties and biases make the largest logit inf"):
        choose_plainly(torch.tensor([[2e38, 0.0]]), config, random_uniforms(0, 1))


def test_a_bias_outside_the_vocabulary():
    config = SamplingConfig(logit_bias={4: 1.0})
    with pytest.raises(ConfigError, match="logit_bias has the id 4, but the vocabulary has 4 tok"):
        choose_plainly(torch.zeros(1, 4), config, random_uniforms(0, 1))


def test_ties_for_the_last_place_of_top_k_are_all_kept_in_any_batch():
    rows = torch.tensor([[1.0, 3, 2, 2, 2, 0], [5.0, 4, 3, 2, 1, 0], [1.0] * 6])
    config = SamplingConfig(top_k=2)
    kept = [[1, 2, 3, 4], [0, 1], [0, 1, 2, 3, 4, 5]]
    for order in itertools.permutations(range(3)):
        given_rows = probabilities(rows[list(order)], config)
        assert [row.nonzero().flatten().tolist() for row in given_rows] == [kept[i] for i in order]
