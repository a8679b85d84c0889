import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.training.loss_scale import LossScale


def test_an_overflow_halves_it_and_many_good_steps_double_it():
    scale = LossScale(enabled=True)
    scale.update(finite=False)
    assert scale.scale == 2**15
    for _ in range(1999):
        scale.update(finite=True)
    assert scale.scale == 2**15
    scale.update(finite=True)
    assert scale.scale == 2**16


def test_it_stays_between_one_and_what_float32_gradients_bear():
    scale = LossScale(enabled=True)
    for _ in range(16):
        assert scale.can_fall
        scale.update(finite=False)
    assert (scale.scale, scale.can_fall) == (1.0, False)
    scale.update(finite=False)
    assert scale.scale == 1.0
    for _ in range(2000 * 30):
        scale.update(finite=True)
    assert scale.scale == 2**24


def test_a_scale_that_is_not_enabled_is_one_and_has_no_state():
    scale = LossScale(enabled=False)
    for finite in (True, False):
        scale.update(finite=finite)
    assert (scale.scale, scale.can_fall, scale.state_dict()) == (1.0, False, {})
    scale.load_state_dict({})
    assert scale.scale == 1.0


@pytest.mark.parametrize(
    "stretches",
    [
        [(3, False), (1999, True), (1, False), (2001, True)],
        [(2000, True), (1, False), (1, True), (2, False), (2010, True)],
    ],
)
def test_it_moves_as_torchs_scaler_does(stretches):
    ours = LossScale(enabled=True)
    theirs = torch.amp.GradScaler("cpu", enabled=True)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs.scale(torch.ones(1))
    for length, finite in stretches:
        for _ in range(length):
            weight.grad = torch.tensor([1.0 if finite else torch.inf])
            theirs.step(optimizer)
            theirs.update()
            ours.update(finite=finite)
    assert ours.scale == theirs.get_scale()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2500), st.booleans()), max_size=6), st.integers(0, 2500))
def test_a_resumed_scale_goes_on_alike(stretches, rest):
    scale, resumed = LossScale(enabled=True), LossScale(enabled=True)
    for length, finite in stretches:
        for _ in range(length):
            scale.update(finite=finite)
    resumed.load_state_dict(scale.state_dict())
    for _ in range(rest):
        scale.update(finite=True)
        resumed.update(finite=True)
    assert resumed.scale == scale.scale
    assert resumed.state_dict() == scale.state_dict()
