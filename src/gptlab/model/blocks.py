"""A Transformer block: attention, then a feed-forward part, each with a norm.

Letters: B batch, T length, D model width, F feed-forward width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import ModelConfig
from gptlab.model.cache import LayerCache, Memory
from gptlab.model.dropout import Dropout
from gptlab.model.linear import Linear
from gptlab.model.multi_head import Attention, Context, CrossAttention


def make_norm(config: ModelConfig) -> nn.Module:
    """The configured normalisation over the model's width."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.embed_dim, eps=config.norm_eps)
    return nn.LayerNorm(config.embed_dim, eps=config.norm_eps, bias=config.bias)


class FeedForward(nn.Module):
    """Widen, bend, narrow.

    GELU: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415. SwiGLU: Shazeer 2020,
    https://arxiv.org/abs/2002.05202. Squared ReLU: So et al. 2021, https://arxiv.org/abs/2109.08668.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up_proj = Linear(config.embed_dim, config.hidden_dim, bias=config.bias)
        if config.activation == "swiglu":
            self.gate_proj = Linear(config.embed_dim, config.hidden_dim, bias=config.bias)
        self.down_proj = Linear(config.hidden_dim, config.embed_dim, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        hidden_BTF = self.up_proj(x_BTD)
        if self.activation == "swiglu":
            hidden_BTF = F.silu(self.gate_proj(x_BTD)) * hidden_BTF
        elif self.activation in ("relu", "relu2"):
            hidden_BTF = F.relu(hidden_BTF)
            hidden_BTF = hidden_BTF.square() if self.activation == "relu2" else hidden_BTF
        else:
            approximate = "tanh" if self.activation == "gelu_tanh" else "none"
            hidden_BTF = F.gelu(hidden_BTF, approximate=approximate)
        narrowed: Tensor = self.down_proj(hidden_BTF)
        return narrowed


class Block(nn.Module):
    """Attention and a feed-forward part, each added to what it reads.

    Pre-norm (Xiong et al. 2020, https://arxiv.org/abs/2002.04745): x + part(norm(x)). Post-norm, as
    in the paper of 2017 (https://arxiv.org/abs/1706.03762): norm(x + part(x)). A decoder's block
    attends to a memory between the two. With parallel residuals both are of the same x (GPT-J; Wang
    and Komatsuzaki 2021, https://github.com/kingoflolz/mesh-transformer-jax).

    Args:
        config: Its shape and parts.
        has_memory: Whether it is a decoder's.
    """

    def __init__(self, config: ModelConfig, *, has_memory: bool = False) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.cross_attention = None
        if has_memory:
            self.cross_attention_norm = make_norm(config)
            self.cross_attention = CrossAttention(config)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)
        self.is_parallel = config.parallel_residual
        self.is_pre = config.norm_place == "pre"
        self.is_recomputed = False
        """Whether training computes it again on the way back."""

    def forward(self, x_BTD: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        read_BTD = self._before(self.attention_norm, x_BTD)
        mixed_BTD: Tensor = self.attention(read_BTD, context, cache)
        between_BTD = self._after(self.attention_norm, x_BTD + self.dropout(mixed_BTD))
        if self.cross_attention is not None:
            memory = self._memory(context, cache)
            read_BTD = self._before(self.cross_attention_norm, between_BTD)
            seen_BTD: Tensor = self.cross_attention(read_BTD, memory)
            between_BTD = self._after(
                self.cross_attention_norm, between_BTD + self.dropout(seen_BTD)
            )
        read_BTD = x_BTD if self.is_parallel else between_BTD
        fed_BTD = self.feed_forward(self._before(self.feed_forward_norm, read_BTD))
        return self._after(self.feed_forward_norm, between_BTD + self.dropout(fed_BTD))

    def remember(self, memory_BSD: Tensor, lengths_B: Tensor | None) -> Memory:
        """What a decoder's block reads of a memory, as `CrossAttention.remember`."""
        assert self.cross_attention is not None
        return self.cross_attention.remember(memory_BSD, lengths_B)

    def _before(self, norm: nn.Module, x_BTD: Tensor) -> Tensor:
        read: Tensor = norm(x_BTD) if self.is_pre else x_BTD
        return read

    def _after(self, norm: nn.Module, x_BTD: Tensor) -> Tensor:
        written: Tensor = x_BTD if self.is_pre else norm(x_BTD)
        return written

    def _memory(self, context: Context, cache: LayerCache | None) -> Memory:
        if cache is not None and cache.memory is not None:
            return cache.memory
        assert self.cross_attention is not None
        assert context.memory_BSD is not None
        return self.cross_attention.remember(context.memory_BSD, context.memory_lengths_B)
