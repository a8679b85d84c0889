"""Losses against float64 and torch, in chunks against whole, and against any split of the batch."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from gptlab.training import cross_entropy
from gptlab.training.losses import chunked_cross_entropy, target_losses

B, T, V = 6, 5, 11
D = 4
EXTRAS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-2},
    "both": {"label_smoothing": 0.3, "z_loss": 1e-3},
}


def make(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, T, V, generator=generator) * 3
    targets = torch.randint(V, (B, T), generator=generator)
    weights = torch.rand(B, T, generator=generator)
    return logits, targets, weights


def slow_loss(logits, targets, weights, *, label_smoothing=0.0, z_loss=0.0):
    """One target after another, in the type of `logits`."""
    total = logits.new_zeros(())
    for row, target, weight in zip(
        logits.flatten(0, -2), targets.flatten(), weights.flatten().tolist(), strict=True
    ):
        normaliser = row.exp().sum().log()
        wanted = torch.full_like(row, label_smoothing / len(row))
        wanted[target] += 1 - label_smoothing
        loss = (wanted * (normaliser - row)).sum() + z_loss * normaliser**2
        total = total + weight * loss
    return total


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
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 2, st.integers(1, 9)),
    extras=st.sampled_from(list(EXTRAS.values())),
    seed=st.integers(0, 99),
)
def test_value_and_gradient_equal_a_slow_loss_in_float64(shape, extras, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(shape, generator=generator) * 5).requires_grad_()
    targets = torch.randint(shape[-1], shape[:2], generator=generator)
    weights = torch.rand(shape[:2], generator=generator)
    exact = logits.detach().double().requires_grad_()
    expected = slow_loss(exact, targets, weights, **extras)
    loss, weight = cross_entropy(logits, targets, weights_BT=weights, **extras)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6, abs=2e-6)
    assert weight.item() == pytest.approx(weights.sum().item())
    loss.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, exact.grad.float(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_that_of_torch(smoothing):
    logits, targets, _ = make()
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, _ = cross_entropy(ours, targets, label_smoothing=smoothing)
    expected = F.cross_entropy(
        theirs.flatten(0, 1), targets.flatten(), label_smoothing=smoothing, reduction="sum"
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad.float())


def test_z_loss_pulls_the_normaliser_to_1():
    logits = torch.zeros(1, 1, V, requires_grad=True)
    targets = torch.zeros(1, 1, dtype=torch.int64)
    loss, _ = cross_entropy(logits, targets, z_loss=0.5)
    assert loss.item() == pytest.approx(math.log(V) + 0.5 * math.log(V) ** 2, rel=1e-6)
    (pull,) = torch.autograd.grad(loss, logits)
    (without,) = torch.autograd.grad(cross_entropy(logits, targets)[0], logits)
    torch.testing.assert_close(pull - without, torch.full((1, 1, V), math.log(V) / V))


def test_the_plain_loss_of_each_target_comes_along_whatever_is_minimised():
    logits, targets, _ = make()
    logits.requires_grad_()
    plain = target_losses(logits, targets)
    both = target_losses(logits, targets, **EXTRAS["both"])
    assert torch.equal(both.nats, plain.minimised)
    assert not both.nats.requires_grad
    assert both.nats.shape == both.minimised.shape == targets.shape
    assert not torch.allclose(both.minimised, both.nats)


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
def test_large_logits_stay_finite(extras):
    logits = torch.tensor([[[1e4, -1e4, 0.0]]], requires_grad=True)
    loss, _ = cross_entropy(logits, torch.tensor([[1]]), **extras)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.sets(st.integers(1, B - 1)),
    weighted=st.booleans(),
    extras=st.sampled_from(list(EXTRAS.values())),
)
def test_any_split_into_micro_batches_gives_the_same_gradient(cuts, weighted, extras):
    logits, targets, weights = make()

    def gradient(borders: list[int]) -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        losses, total = [], torch.zeros(())
        for start, stop in pairwise(borders):
            chosen = weights[start:stop] if weighted else None
            loss, weight = cross_entropy(
                leaf[start:stop], targets[start:stop], weights_BT=chosen, **extras
            )
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


def make_hidden(shape=(B, T, D), vocab_size=V):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(shape, generator=generator).requires_grad_()
    head = torch.randn(vocab_size, shape[-1], generator=generator).requires_grad_()
    targets = torch.randint(vocab_size, shape[:2], generator=generator)
    return hidden, head, targets


@settings(max_examples=40, deadline=None)
@given(
    chunk=st.integers(1, B * T + 3),
    weighted=st.booleans(),
    extras=st.sampled_from(list(EXTRAS.values())),
)
def test_chunks_give_the_value_and_the_gradient_of_the_whole(chunk, weighted, extras):
    hidden, head, targets = make_hidden()
    options = {"weights_BT": make()[2] if weighted else None, **extras}

    def logits(part):
        return 3 * torch.tanh(F.linear(part, head) / 3)

    whole, weight = cross_entropy(logits(hidden), targets, **options)
    chunked, chunked_weight = chunked_cross_entropy(
        hidden, targets, logits=logits, chunk=chunk, **options
    )
    torch.testing.assert_close(chunked, whole)
    assert chunked_weight == weight
    expected = torch.autograd.grad(whole, [hidden, head])
    torch.testing.assert_close(torch.autograd.grad(chunked, [hidden, head]), expected)


class HeldMemory(TorchDispatchMode):
    """Watches how many bytes the results of operations hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, torch.Tensor):
                storage = part.untyped_storage()
                self._sizes[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self._sizes.values()))
        return result


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
def test_chunks_never_hold_all_logits(extras):
    vocab_size, chunk = 1000, 8
    hidden, head, targets = make_hidden((4, 64, 3), vocab_size)

    def peak(loss) -> int:
        with HeldMemory() as memory:
            loss()[0].backward()
        return memory.peak

    def logits(part):
        return F.linear(part, head)

    all_logits, chunk_of_logits = (count * vocab_size * 4 for count in (4 * 64, chunk))
    assert peak(lambda: cross_entropy(logits(hidden), targets, **extras)) > 2 * all_logits
    held = peak(
        lambda: chunked_cross_entropy(hidden, targets, logits=logits, chunk=chunk, **extras)
    )
    assert chunk_of_logits < held < all_logits / 2


def test_chunks_do_without_a_gradient():
    hidden, head, targets = make_hidden()
    with torch.no_grad():
        loss, _ = chunked_cross_entropy(
            hidden, targets, logits=lambda part: F.linear(part, head), chunk=4
        )
    expected, _ = cross_entropy(F.linear(hidden, head), targets)
    torch.testing.assert_close(loss, expected.detach())
    assert not loss.requires_grad
