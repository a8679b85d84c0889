import math

import pytest
import torch

from gptlab.model.dropout import Dropout, dropout, dropout_factors

SIZE = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_the_share_is_dropped_and_the_mean_is_kept(share, dtype):
    torch.manual_seed(0)
    factors = dropout_factors(torch.empty(SIZE, dtype=dtype), share)
    kept, zero = factors.unique().flip(0).tolist()
    assert zero == 0
    assert kept == pytest.approx(1 / (1 - share), rel=2**-8 if dtype.itemsize == 2 else 1e-3)
    deviation = math.sqrt(share * (1 - share) / SIZE)
    dropped = (factors == 0).double().mean().item()
    assert dropped == pytest.approx(share, abs=5 * deviation + 2**-17)


def test_neighbours_that_share_a_draw_are_dropped_independently():
    torch.manual_seed(0)
    is_dropped = dropout_factors(torch.empty(SIZE), 0.5) == 0
    share = is_dropped.view(-1, 4).double()
    # Each of the four, and each two of them.
    assert share.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.005)
    both = (share.T @ share) / len(share)
    assert both[~torch.eye(4, dtype=torch.bool)].tolist() == pytest.approx([0.25] * 12, abs=0.005)


def test_a_seed_decides_what_is_dropped_and_the_gradient_follows_it():
    x = torch.randn(3, 5, 7, requires_grad=True)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(dropout(x, 0.4))
    assert torch.equal(*results)
    (gradient,) = torch.autograd.grad(results[0].sum(), x)
    torch.manual_seed(3)
    assert torch.equal(gradient, dropout_factors(x, 0.4))


def test_nothing_is_dropped_without_a_share_or_training_and_all_but_nothing_near_one():
    x = torch.randn(64)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert (Dropout(0.5)(x) == 0).any()
    assert dropout(x, 1 - 1e-9).isfinite().all()


def test_what_no_cpu_draws_here_is_torchs_own():
    assert dropout_factors(torch.empty(8, device="meta"), 0.3).shape == (8,)
    assert dropout(torch.empty(8, device="meta"), 0.3).shape == (8,)
