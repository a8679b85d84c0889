import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.config import OptimizerConfig
from gptlab.training.schedules import warmup_cosine


def rate(step: int, total: int = 1100, **changes: object) -> float:
    settings = {"learning_rate": 1.0, "min_learning_rate": 0.2, "warmup_steps": 100} | changes
    return warmup_cosine(step, total_steps=total, config=OptimizerConfig(**settings))


def test_warm_up_is_linear():
    assert [rate(step) for step in (0, 49, 99)] == pytest.approx([0.01, 0.5, 1.0])


def test_then_comes_half_a_cosine():
    assert rate(100) == 1.0
    assert rate(350) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(600) == pytest.approx(0.6)
    assert rate(1100) == rate(5000) == pytest.approx(0.2)


def test_defaults():
    assert rate(10_000, 1000, min_learning_rate=None) == pytest.approx(0.1)
    assert rate(49, 500, warmup_steps=None) == rate(50, 500, warmup_steps=None) == 1.0
    assert rate(99, 10_000, warmup_steps=None) == 1.0
    assert rate(0, 5, warmup_steps=None) == 1.0
    assert rate(0, warmup_steps=0) == 1.0


@given(
    step=st.integers(0, 3000),
    total=st.integers(1, 2000),
    warmup=st.one_of(st.none(), st.integers(0, 3000)),
    peak=st.floats(1e-6, 1.0),
    share=st.one_of(st.none(), st.floats(0, 1)),
)
def test_the_rate_stays_within_its_bounds(step, total, warmup, peak, share):
    minimum = None if share is None else share * peak
    changes = {"learning_rate": peak, "min_learning_rate": minimum, "warmup_steps": warmup}
    now, later = rate(step, total, **changes), rate(step + 1, total, **changes)
    assert 0 <= now <= peak * (1 + 1e-12)
    effective = warmup if warmup is not None else min(100, total // 10)
    if step >= effective:
        assert later <= now
        assert now >= (peak / 10 if minimum is None else minimum) * (1 - 1e-12)
    elif step + 1 < effective:
        assert later > now
