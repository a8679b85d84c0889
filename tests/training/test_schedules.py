import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import OptimizerConfig
from gptlab.training.schedules import learning_rate

SCHEDULES = ["cosine", "linear", "wsd", "constant", "inverse_sqrt"]
FALLING = ["cosine", "linear", "wsd"]


def rate(step: int, total: int = 1100, **changes: object) -> float:
    settings = {"learning_rate": 1.0, "min_learning_rate": 0.2, "warmup_steps": 100} | changes
    return learning_rate(step, total_steps=total, config=OptimizerConfig(**settings))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear(schedule):
    rates = [rate(step, schedule=schedule) for step in (0, 49, 99)]
    assert rates == pytest.approx([0.01, 0.5, 1.0])


def test_cosine_is_half_a_cosine():
    assert rate(100) == 1.0
    assert rate(350) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(600) == pytest.approx(0.6)
    assert rate(1100) == rate(5000) == pytest.approx(0.2)


def test_linear_is_a_line():
    rates = [rate(step, schedule="linear") for step in (100, 350, 600, 1100, 5000)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2])


def test_wsd_is_level_and_falls_over_the_last_part_of_the_run():
    rates = [rate(step, 1000, schedule="wsd") for step in (100, 700, 800, 900, 1000, 5000)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.6, 0.2, 0.2])
    assert rate(950, 1000, schedule="wsd", decay_share=0.05) == 1.0
    assert rate(975, 1000, schedule="wsd", decay_share=0.05) == pytest.approx(0.6)


def test_wsd_that_falls_from_the_beginning_is_linear():
    for step in range(0, 1200, 7):
        assert rate(step, schedule="wsd", decay_share=1.0) == rate(step, schedule="linear")


def test_constant_stays_at_the_peak():
    assert [rate(step, schedule="constant") for step in (100, 1099, 5000)] == [1.0, 1.0, 1.0]


def test_inverse_square_root_falls_to_the_minimum_whatever_the_length_of_the_run():
    rates = [rate(step, 7, schedule="inverse_sqrt") for step in (99, 399, 899, 10**6)]
    assert rates == pytest.approx([1.0, 1 / 2, 1 / 3, 0.2])
    assert rate(3, schedule="inverse_sqrt", warmup_steps=0) == pytest.approx(1 / 2)


def test_defaults():
    assert rate(10_000, 1000, min_learning_rate=None) == pytest.approx(0.1)
    assert rate(49, 500, warmup_steps=None) == rate(50, 500, warmup_steps=None) == 1.0
    assert rate(99, 10_000, warmup_steps=None) == 1.0
    assert rate(0, 5, warmup_steps=None) == 1.0
    assert rate(0, warmup_steps=0) == 1.0


@settings(deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    step=st.integers(0, 3000),
    total=st.integers(1, 2000),
    warmup=st.one_of(st.none(), st.integers(0, 3000)),
    peak=st.floats(1e-6, 1.0),
    share=st.one_of(st.none(), st.floats(0, 1)),
    decay_share=st.floats(0.01, 1.0),
)
def test_the_rate_stays_within_its_bounds(schedule, step, total, warmup, peak, share, decay_share):
    minimum = None if share is None else share * peak
    changes = {
        "schedule": schedule,
        "learning_rate": peak,
        "min_learning_rate": minimum,
        "warmup_steps": warmup,
        "decay_share": decay_share,
    }
    now, later = rate(step, total, **changes), rate(step + 1, total, **changes)
    lowest = (peak / 10 if minimum is None else minimum) * (1 - 1e-12)
    assert 0 <= now <= peak * (1 + 1e-12)
    effective = warmup if warmup is not None else min(100, total // 10)
    if step >= effective:
        assert lowest <= later <= now
        if schedule in FALLING and step >= max(total, effective + 1):
            assert now == pytest.approx(lowest, rel=1e-9, abs=1e-15)
    elif step + 1 < effective:
        assert later > now


@settings(deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    total=st.integers(10, 400),
    warmup=st.integers(1, 400),
    decay_share=st.floats(0.01, 1.0),
)
def test_the_rate_never_jumps(schedule, total, warmup, decay_share):
    changes = {"schedule": schedule, "warmup_steps": warmup, "decay_share": decay_share}
    rates = [rate(step, total, **changes) for step in range(total + 2)]
    decay = max(1, total - warmup)
    if schedule == "wsd":
        decay = max(1, min(decay, round(total * decay_share)))
    steepest = max(1 / warmup, math.pi / 2 * 0.8 / decay)
    for step, (former, current) in enumerate(pairwise(rates)):
        assert abs(current - former) <= steepest * (1 + 1e-9), step
