"""Attention as matrix products over blocks of queries, in which no block sees keys of its future.

    queries   keys ->
    block 0   #
    block 1   # #
    block 2   # # #        one product for each row: the upper triangle is never computed

On a CPU with bf16 products this is two to four times as fast as PyTorch's fused kernel, whose
products there are in float32. What it pays is memory: the weights, B H T S / 2 of them in the
type of the queries, are kept for the way back, and with dropout its masks, as many again.

Letters: B batch, T query length, S key length, H heads, K head width, N = B x H.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptlab.model.dropout import dropout_factors

_LEAST, _MOST, _BLOCKS = 64, 256, 4


def blocked_attention(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    *,
    causal: bool,
    mask_BTS: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """What `attend` computes, (B, T, H, K), by products over blocks of queries."""
    B, _, H, _ = q_BTHK.shape
    groups = H // k_BSHK.shape[2]
    if groups > 1:
        k_BSHK = k_BSHK.repeat_interleave(groups, dim=2)
        v_BSHK = v_BSHK.repeat_interleave(groups, dim=2)
    heads = (x.transpose(1, 2).flatten(0, 1).contiguous() for x in (q_BTHK, k_BSHK, v_BSHK))
    # Products in the type of the queries, on the way back too, where autocast is over.
    with torch.autocast(q_BTHK.device.type, enabled=False):
        output_NTK: Tensor = _BlockedAttention.apply(*heads, causal, mask_BTS, dropout)  # type: ignore[no-untyped-call]
    return output_NTK.view(B, H, *output_NTK.shape[1:]).transpose(1, 2)


class _BlockedAttention(torch.autograd.Function):
    """Scores, softmax and sums of one block of queries after the other, and the way back.

    The softmax of scores in 16 bits is computed in float32 and rounded once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_NTK: Tensor,
        k_NSK: Tensor,
        v_NSK: Tensor,
        causal: bool,
        mask_BTS: Tensor | None,
        dropout: float,
    ) -> Tensor:
        output_NTK = torch.empty_like(q_NTK)
        goes_back = any(ctx.needs_input_grad[:3])
        kept: list[Tensor] = []
        for rows, keys in _blocks(q_NTK.shape[1], k_NSK.shape[1], causal):
            scores = _scaled_product(q_NTK[:, rows], k_NSK[:, keys].mT)
            _hide(scores, causal, None if mask_BTS is None else mask_BTS[:, rows, keys])
            weights = scores.softmax(-1)
            kept += [weights] if goes_back else []
            if dropout:
                noise = dropout_factors(weights, dropout)
                kept += [noise] if goes_back else []
                weights = weights * noise
            output_NTK[:, rows] = torch.bmm(weights, v_NSK[:, keys])
        if goes_back:
            ctx.save_for_backward(q_NTK, k_NSK, v_NSK, *kept)
        ctx.causal, ctx.has_noise = causal, dropout > 0
        return output_NTK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_NTK, k_NSK, v_NSK, *kept = ctx.saved_tensors
        grad_NTK = grads[0]
        dq_NTK, dk_NSK, dv_NSK = (torch.empty_like(x) for x in (q_NTK, k_NSK, v_NSK))
        blocks = list(_blocks(q_NTK.shape[1], k_NSK.shape[1], ctx.causal))
        # The last block sees all keys, so that it begins their sums and the others add to them.
        for number in reversed(range(len(blocks))):
            rows, keys = blocks[number]
            beta = 0 if number == len(blocks) - 1 else 1
            weights, *noise = kept[2 * number :][:2] if ctx.has_noise else kept[number:][:1]
            grad = grad_NTK[:, rows]
            dropped = weights * noise[0] if noise else weights
            dv_NSK[:, keys].baddbmm_(dropped.mT, grad, beta=beta)
            dweights = torch.bmm(grad, v_NSK[:, keys].mT)
            if noise:
                dweights *= noise[0]
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dscores *= 1 / math.sqrt(q_NTK.shape[2])
            dq_NTK[:, rows] = torch.bmm(dscores, k_NSK[:, keys])
            dk_NSK[:, keys].baddbmm_(dscores.mT, q_NTK[:, rows], beta=beta)
        return dq_NTK, dk_NSK, dv_NSK, None, None, None


def _blocks(T: int, S: int, causal: bool) -> Iterator[tuple[slice, slice]]:
    """Of each block its queries, and the keys that the causal rule lets the last of them see."""
    size = min(max(T // _BLOCKS, _LEAST), _MOST)
    for start in range(0, T, size):
        end = min(start + size, T)
        yield slice(start, end), slice(0, S - T + end if causal else S)


def _scaled_product(q_NTK: Tensor, k_NKS: Tensor) -> Tensor:
    scores_NTS = q_NTK.new_empty(*q_NTK.shape[:2], k_NKS.shape[2])
    # Scaled before it is rounded.
    return torch.baddbmm(scores_NTS, q_NTK, k_NKS, beta=0, alpha=1 / math.sqrt(q_NTK.shape[2]))


def _hide(scores_NTS: Tensor, causal: bool, mask_BTS: Tensor | None) -> None:
    """Minus infinity where a query may not look, in place."""
    T = scores_NTS.shape[1]
    if causal:
        ahead_TT = torch.ones(T, T, dtype=torch.bool, device=scores_NTS.device).triu(1)
        scores_NTS[:, :, -T:].masked_fill_(ahead_TT, -math.inf)
    if mask_BTS is not None:
        scores_BHTS = scores_NTS.view(len(mask_BTS), -1, *mask_BTS.shape[1:])
        scores_BHTS.masked_fill_(~mask_BTS.unsqueeze(1), -math.inf)
