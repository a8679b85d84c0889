import pytest
import torch

from gptlab.model import attend


@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
def test_a_compiled_step_drops_whole_weights_of_what_is_seen(backend):
    """Forward and back, beside the weights without dropout."""
    torch.manual_seed(0)
    B, T, H = 2, 24, 2
    q, k = (torch.randn(B, T, H, T, requires_grad=True) for _ in "qk")
    v = torch.eye(T).expand(B, H, T, T).transpose(1, 2).clone().requires_grad_()
    lengths = torch.tensor([T, 19])

    def weights(q, k, v, lengths, dropout):
        seen_BTS = (torch.arange(T) < lengths[:, None, None]).expand(B, T, T)
        return attend(q, k, v, mask_BTS=seen_BTS, backend=backend, dropout=dropout)

    dropped = torch.compile(weights, dynamic=False)(q, k, v, lengths, 0.5)
    whole = weights(q, k, v, lengths, 0.0)
    is_dropped = dropped == 0
    torch.testing.assert_close(dropped, torch.where(is_dropped, 0.0, 2 * whole))
    share = is_dropped[whole > 0].double().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)
    # The way back drops what the way there did.
    (dv,) = torch.autograd.grad(dropped.sum(), v, retain_graph=True)
    sums = dropped.detach().sum(1).transpose(1, 2)[..., None].expand(B, T, H, T)
    torch.testing.assert_close(dv, sums)
    for gradient in torch.autograd.grad(dropped.square().sum(), (q, k)):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
