"""A Transformer block: attention, then a feed-forward part, each behind a norm.

Letters: B batch, T length, D model width, F feed-forward width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import ModelConfig
from gptlab.model.attention import Attention, Context
from gptlab.model.cache import LayerCache
from gptlab.model.linear import Linear


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
        elif self.activation == "relu2":
            hidden_BTF = F.relu(hidden_BTF).square()
        else:
            approximate = "tanh" if self.activation == "gelu_tanh" else "none"
            hidden_BTF = F.gelu(hidden_BTF, approximate=approximate)
        narrowed: Tensor = self.down_proj(hidden_BTF)
        return narrowed


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    With parallel residuals both are of the same x (GPT-J; Wang and Komatsuzaki 2021,
    https://github.com/kingoflolz/mesh-transformer-jax).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.is_parallel = config.parallel_residual

    def forward(self, x_BTD: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        mixed_BTD: Tensor = self.attention(self.attention_norm(x_BTD), context, cache)
        between_BTD = x_BTD + self.dropout(mixed_BTD)
        read_BTD = x_BTD if self.is_parallel else between_BTD
        fed_BTD = self.dropout(self.feed_forward(self.feed_forward_norm(read_BTD)))
        after_BTD: Tensor = between_BTD + fed_BTD
        return after_BTD
