"""Attention: one function behind which several backends serve, and the layer that calls it.

Letters: B batch, T query length, S key length, D model width, H heads, K head width. Keys and
values may have fewer heads than queries; each is then shared by a group of query heads
(Ainslie et al. 2023, https://arxiv.org/abs/2305.13245).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import ModelConfig
from gptlab.errors import BackendError
from gptlab.model.blocked import blocked_attention
from gptlab.model.cache import LayerCache
from gptlab.model.flash import flash_attention
from gptlab.model.linear import Linear, computed, is_compiled
from gptlab.model.positions import rotate

BACKENDS = ("auto", "reference", "sdpa", "blocked", "flash")


class Context(NamedTuple):
    """What every layer of one forward pass shares about positions."""

    positions: Tensor
    """Where each token stands, (T,) or (B, T) int64."""
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosines and sines at the tokens' positions, or None without rotary positions."""
    mask_BTS: Tensor | None = None
    """Where a query may look; None where the causal rule and the window say it all."""
    window: int | None = None
    """Keys that a query may look back at, its own included; all of them if None."""


def attend(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    *,
    backend: str = "auto",
    causal: bool = True,
    window: int | None = None,
    mask_BTS: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017), (B, T, H, K) in the queries' dtype.

    A causal mask is aligned to the last key: query t sees keys up to S - T + t, so new tokens
    after cached ones need no mask of their own. With a `window` it sees only the last so many of
    them (Child et al. 2019, https://arxiv.org/abs/1904.10509). `mask_BTS` is bool, True where a
    query may look; it narrows what the others allow, and every query must see some key.
    `auto` is `blocked` for 16-bit numbers on a CPU, and otherwise `sdpa`, PyTorch's own choice of
    a kernel, which has one for every device.

    Raises:
        BackendError: The named backend can't serve this device, dtype or mask.
    """
    if window is not None and causal and q_BTHK.shape[1] == 1 and mask_BTS is None:
        # One query sees what there is.
        k_BSHK, v_BSHK, window = k_BSHK[:, -window:], v_BSHK[:, -window:], None
    if backend == "auto":
        if q_BTHK.shape[1] == 1 and not dropout and is_compiled():
            return _one_query(q_BTHK, k_BSHK, v_BSHK, mask_BTS)
        backend = usual_backend(q_BTHK.device, q_BTHK.dtype, length=q_BTHK.shape[1])
    if backend == "flash" and mask_BTS is None:
        return flash_attention(
            q_BTHK, k_BSHK, v_BSHK, causal=causal, window=window, dropout=dropout
        )
    if window is not None:
        mask_BTS = _with_window(mask_BTS, window, q_BTHK, k_BSHK)
    if backend == "reference":
        return _reference(q_BTHK, k_BSHK, v_BSHK, causal, mask_BTS, dropout)
    if backend == "sdpa":
        return _sdpa(q_BTHK, k_BSHK, v_BSHK, causal, mask_BTS, dropout)
    if backend == "blocked":
        return blocked_attention(
            q_BTHK, k_BSHK, v_BSHK, causal=causal, mask_BTS=mask_BTS, dropout=dropout
        )
    if backend != "flash":
        raise BackendError(
            f"there is no attention backend '{backend}'; known: {', '.join(BACKENDS)}"
        )
    raise BackendError(
        "attention is 'flash', which takes no mask, but rows of different lengths need one; "
        "write --attention auto"
    )


def usual_backend(device: torch.device, dtype: torch.dtype, *, length: int) -> str:
    """What `auto` means for `length` queries."""
    return "blocked" if device.type == "cpu" and dtype.itemsize == 2 and length > 1 else "sdpa"


def _one_query(q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """One query a row that sees every key, or those of a mask, as sums for a compiler to fuse."""
    B, S, H, K = k_BSHK.shape
    q_BHGK = computed(q_BTHK.reshape(B, H, -1, K).float() / math.sqrt(K))
    scores_BSHG = (k_BSHK.float().unsqueeze(3) * q_BHGK.unsqueeze(1)).sum(dim=-1)
    if mask_BTS is not None:
        scores_BSHG = scores_BSHG.masked_fill(~mask_BTS.view(-1, S, 1, 1), -math.inf)
    weights_BSHG = (scores_BSHG - scores_BSHG.amax(dim=1, keepdim=True)).exp()
    sums_BHGK = (weights_BSHG.unsqueeze(-1) * v_BSHK.float().unsqueeze(3)).sum(dim=1)
    output_BHGK = sums_BHGK / weights_BSHG.sum(dim=1).unsqueeze(-1)
    return output_BHGK.to(v_BSHK.dtype).view(q_BTHK.shape)


def _reference(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    causal: bool,
    mask_BTS: Tensor | None,
    dropout: float,
) -> Tensor:
    groups = q_BTHK.shape[2] // k_BSHK.shape[2]
    k_BSHK = k_BSHK.repeat_interleave(groups, dim=2)
    v_BSHK = v_BSHK.repeat_interleave(groups, dim=2)
    scores_BHTS = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK) / math.sqrt(q_BTHK.shape[3])
    if causal:
        mask_BTS = _with_causal(mask_BTS, q_BTHK.shape[1], k_BSHK.shape[1], q_BTHK.device)
    if mask_BTS is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask_BTS.unsqueeze(1), -math.inf)
    weights_BHTS = F.dropout(scores_BHTS.softmax(dim=-1), dropout).to(v_BSHK.dtype)
    return torch.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)


def _sdpa(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    causal: bool,
    mask_BTS: Tensor | None,
    dropout: float,
) -> Tensor:
    length, key_length = q_BTHK.shape[1], k_BSHK.shape[1]
    square = causal and mask_BTS is None and length == key_length
    # SDPA aligns its own causal mask to the first key, and one query at the end sees every key.
    if causal and not square and not (mask_BTS is None and length == 1):
        mask_BTS = _with_causal(mask_BTS, length, key_length, q_BTHK.device)
    output_BHTK = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BSHK.transpose(1, 2),
        v_BSHK.transpose(1, 2),
        attn_mask=None if mask_BTS is None else mask_BTS.unsqueeze(1),
        dropout_p=dropout,
        is_causal=square,
        enable_gqa=bool(q_BTHK.shape[2] != k_BSHK.shape[2]),
    )
    return output_BHTK.transpose(1, 2)


def _with_causal(mask_BTS: Tensor | None, T: int, S: int, device: torch.device) -> Tensor:
    causal_TS = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    return causal_TS.unsqueeze(0) if mask_BTS is None else mask_BTS & causal_TS


def _with_window(
    mask_BTS: Tensor | None, window: int, q_BTHK: Tensor, k_BSHK: Tensor
) -> Tensor | None:
    T, S = q_BTHK.shape[1], k_BSHK.shape[1]
    if window >= S:
        return mask_BTS
    near_TS = torch.ones(T, S, dtype=torch.bool, device=q_BTHK.device).triu(S - T - window + 1)
    return near_TS.unsqueeze(0) if mask_BTS is None else mask_BTS & near_TS


class HeadNorm(nn.RMSNorm):
    """Normalises each head's queries or keys (Henry et al. 2020, https://arxiv.org/abs/2010.04245)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., K)."""
        # Under autocast x is in 16 bits and the weight is not, which has no fused kernel.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Multi-head self-attention with grouped keys, rotary positions and a cache."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.backend: str = config.attention
        self.dropout = config.dropout
        heads = (config.n_heads, config.kv_heads, config.kv_heads)
        self.widths = [number * config.head_dim for number in heads]
        qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
        self.qkv_proj = Linear(config.embed_dim, sum(self.widths), bias=qkv_bias)
        self.o_proj = Linear(self.widths[0], config.embed_dim, bias=config.bias)
        self.q_norm, self.k_norm = (
            HeadNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

    def forward(self, x_BTD: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) to (B, T, D); with a cache, T new tokens after those it holds."""
        q_BTHK, k_BTHK, v_BTHK = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in self.qkv_proj(x_BTD).split(self.widths, dim=-1)
        )
        q_BTHK, k_BTHK = self.q_norm(q_BTHK), self.k_norm(k_BTHK)
        if context.rotary is not None:
            q_BTHK, k_BTHK = rotate(q_BTHK, *context.rotary), rotate(k_BTHK, *context.rotary)
        k_BSHK, v_BSHK = k_BTHK, v_BTHK
        if cache is not None:
            k_BSHK, v_BSHK = cache.append(k_BTHK, v_BTHK, context.positions)
        output_BTHK = attend(
            q_BTHK.to(v_BSHK.dtype),
            k_BSHK.to(v_BSHK.dtype),
            v_BSHK,
            backend=self.backend,
            causal=context.mask_BTS is None,
            window=context.window,
            mask_BTS=context.mask_BTS,
            dropout=self.dropout if self.training else 0.0,
        )
        mixed: Tensor = self.o_proj(output_BTHK.flatten(2))
        return mixed
