"""Losses against F.cross_entropy, and against any split of the batch."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.training import cross_entropy

B, T, V = 6, 5, 11


def make(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, T, V, generator=generator) * 3
    targets = torch.randint(V, (B, T), generator=generator)
    weights = torch.rand(B, T, generator=generator)
    return logits, targets, weights


def test_sum_and_weight_equal_torch():
    logits, targets, _ = make()
    loss, weight = cross_entropy(logits, targets)
    mean = F.cross_entropy(logits.double().flatten(0, 1), targets.flatten())
    assert weight.item() == B * T
    assert (loss / weight).item() == pytest.approx(mean.item(), rel=1e-6)
    assert loss.dtype == weight.dtype == torch.float32
    assert loss.ndim == weight.ndim == 0


def test_weights_weigh():
    logits, targets, weights = make()
    loss, weight = cross_entropy(logits, targets, weights_BT=weights)
    each = F.cross_entropy(logits.double().transpose(1, 2), targets, reduction="none")
    assert loss.item() == pytest.approx((each * weights).sum().item(), rel=1e-6)
    assert weight.item() == pytest.approx(weights.sum().item())


def test_a_weight_of_zero_hides_a_target():
    logits, targets, _ = make()
    weights = torch.ones(B, T)
    weights[:, -1] = 0
    loss, weight = cross_entropy(logits, targets, weights_BT=weights)
    expected, expected_weight = cross_entropy(logits[:, :-1], targets[:, :-1])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert weight == expected_weight


@settings(max_examples=40, deadline=None)
@given(cuts=st.sets(st.integers(1, B - 1)), weighted=st.booleans())
def test_any_split_into_micro_batches_gives_the_same_gradient(cuts, weighted):
    logits, targets, weights = make()

    def gradient(borders: list[int]) -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        losses, total = [], torch.zeros(())
        for start, stop in pairwise(borders):
            chosen = weights[start:stop] if weighted else None
            loss, weight = cross_entropy(leaf[start:stop], targets[start:stop], weights_BT=chosen)
            losses.append(loss)
            total = total + weight
        for loss in losses:
            (loss / total).backward()
        return leaf.grad

    torch.testing.assert_close(gradient([0, *sorted(cuts), B]), gradient([0, B]))


def test_half_precision_logits_are_taken_in_float32():
    logits, targets, _ = make()
    logits = logits.bfloat16()
    loss, _ = cross_entropy(logits, targets)
    expected, _ = cross_entropy(logits.float(), targets)
    assert loss == expected
