"""Layers of multi-head attention: of tokens to each other, and to what an encoder made of a source.

Letters: B batch, T query length, S key length, D model width, H heads, K head width.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import ModelConfig
from gptlab.model.attention import attend, attention_weights
from gptlab.model.cache import LayerCache, Memory
from gptlab.model.linear import Linear
from gptlab.model.positions import rotate


class Context(NamedTuple):
    """What every layer of one forward pass shares."""

    positions: Tensor
    """Where each token stands, (T,) or (B, T) int64."""
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosines and sines at the tokens' positions, or None without rotary positions."""
    is_causal: bool = True
    """Whether a query sees nothing ahead, where there is no mask."""
    mask_BTS: Tensor | None = None
    """Where a query may look; None where the other rules say it all."""
    window: int | None = None
    """Keys that a query may look back at, its own included; all of them if None."""
    lengths_B: Tensor | None = None
    """Tokens of each row, int64; what is behind them is filling, which nobody may look at."""
    memory_BSD: Tensor | None = None
    """What an encoder made of the sources, where a decoder reads it for the first time."""
    memory_lengths_B: Tensor | None = None
    """Tokens of each source, int64; None where all are of the same length."""


class HeadNorm(nn.RMSNorm):
    """Normalises each head's queries or keys (Henry et al. 2020, https://arxiv.org/abs/2010.04245)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., K)."""
        # Under autocast x is in 16 bits and the weight is not, which has no fused kernel.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class MultiHead(nn.Module):
    """What layers of attention have in common beside the projections that they read with."""

    o_proj: Linear
    q_norm: nn.Module
    k_norm: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.backend: str = config.attention
        self.dropout = config.dropout
        heads = (config.n_heads, config.kv_heads, config.kv_heads)
        self.widths = [number * config.head_dim for number in heads]
        self.has_bias = config.bias if config.qkv_bias is None else config.qkv_bias

    def _finish(self, config: ModelConfig) -> None:
        """Add what comes after the projections of queries, keys and values."""
        self.o_proj = Linear(self.widths[0], config.embed_dim, bias=config.bias)
        self.q_norm, self.k_norm = (
            HeadNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim))  # type: ignore[no-untyped-call]
        return heads


class Attention(MultiHead):
    """Multi-head self-attention with grouped keys, rotary positions and a cache."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.qkv_proj = Linear(config.embed_dim, sum(self.widths), bias=self.has_bias)
        self._finish(config)

    def forward(self, x_BTD: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) to (B, T, D); with a cache, T new tokens after those it holds."""
        q_BTHK, k_BTHK, v_BTHK = self._project(x_BTD, context)
        k_BSHK, v_BSHK = k_BTHK, v_BTHK
        if cache is not None:
            k_BSHK, v_BSHK = cache.append(k_BTHK, v_BTHK, context.positions)
        output_BTHK = attend(
            q_BTHK.to(v_BSHK.dtype),
            k_BSHK.to(v_BSHK.dtype),
            v_BSHK,
            backend=self.backend,
            causal=context.is_causal and context.mask_BTS is None,
            window=context.window,
            mask_BTS=context.mask_BTS,
            lengths_B=context.lengths_B,
            dropout=self.dropout if self.training else 0.0,
        )
        mixed: Tensor = self.o_proj(output_BTHK.flatten(2))
        return mixed

    def weights(self, x_BTD: Tensor, context: Context) -> Tensor:
        """How much each token takes of each, (B, H, T, T) float32, without a cache."""
        q_BTHK, k_BTHK, _ = self._project(x_BTD, context)
        return _weights(
            q_BTHK,
            k_BTHK,
            causal=context.is_causal and context.mask_BTS is None,
            window=context.window,
            mask_BTS=context.mask_BTS,
            lengths_B=context.lengths_B,
        )

    def _project(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHK, k_BTHK, v_BTHK = map(self._heads, self.qkv_proj(x_BTD).split(self.widths, dim=-1))
        q_BTHK, k_BTHK = self.q_norm(q_BTHK), self.k_norm(k_BTHK)
        if context.rotary is not None:
            q_BTHK, k_BTHK = rotate(q_BTHK, *context.rotary), rotate(k_BTHK, *context.rotary)
        return q_BTHK, k_BTHK, v_BTHK


class CrossAttention(MultiHead):
    """Multi-head attention of a decoder's tokens to a memory, whose tokens have no positions here.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.q_proj = Linear(config.embed_dim, self.widths[0], bias=self.has_bias)
        self.kv_proj = Linear(config.embed_dim, sum(self.widths[1:]), bias=self.has_bias)
        self._finish(config)

    def remember(self, memory_BSD: Tensor, lengths_B: Tensor | None) -> Memory:
        """Keys and values of a memory, which are all that any number of tokens needs of it.

        Args:
            memory_BSD: The encoder's output.
            lengths_B: Tokens of each source, int64; None where all have S.
        """
        keys, values = map(self._heads, self.kv_proj(memory_BSD).split(self.widths[1:], dim=-1))
        return Memory(self.k_norm(keys), values, lengths_B)

    def forward(self, x_BTD: Tensor, memory: Memory) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        q_BTHK = self.q_norm(self._heads(self.q_proj(x_BTD)))
        output_BTHK = attend(
            q_BTHK.to(memory.values.dtype),
            memory.keys.to(memory.values.dtype),
            memory.values,
            backend=self.backend,
            causal=False,
            lengths_B=memory.lengths_B,
            dropout=self.dropout if self.training else 0.0,
        )
        mixed: Tensor = self.o_proj(output_BTHK.flatten(2))
        return mixed

    def weights(self, x_BTD: Tensor, memory: Memory) -> Tensor:
        """How much each token takes of each of the source, (B, H, T, S) float32."""
        q_BTHK = self.q_norm(self._heads(self.q_proj(x_BTD)))
        return _weights(q_BTHK, memory.keys, causal=False, lengths_B=memory.lengths_B)


def _weights(q_BTHK: Tensor, k_BSHK: Tensor, **rules: Any) -> Tensor:
    """`attention_weights` in float32, whatever the arithmetic of those who ask."""
    with torch.autocast(q_BTHK.device.type, enabled=False):
        return attention_weights(q_BTHK.float(), k_BSHK.float(), **rules)
