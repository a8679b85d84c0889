"""What a GPT is made of."""

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt, model_validator

from gptlab.config.settings import Settings
from gptlab.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positions = Literal["rope", "sinusoidal", "learned", "none"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "gelu_tanh", "swiglu", "relu2"]
ResidualInit = Literal["scaled", "zero"]
AttentionBackend = Literal["auto", "reference", "sdpa", "blocked", "flash"]


class ModelConfig(Settings):
    """The shape and the parts of a GPT."""

    vocab_size: Annotated[
        PositiveInt, Field(validation_alias=AliasChoices("tgt_vocab_size", "vocab_size"))
    ] = 384
    """Number of token ids, special tokens included."""
    seq_len: PositiveInt = 256
    """Tokens in a training window; the longest context."""
    embed_dim: PositiveInt = 384
    """Width of the model."""
    num_layers: PositiveInt = 6
    """Number of blocks."""
    n_heads: PositiveInt = 6
    """Attention heads a block."""
    n_kv_heads: PositiveInt | None = None
    """Heads of keys and values, shared by groups of query heads; n_heads if not given."""
    expansion_factor: PositiveFloat = 4
    """Width of the feed-forward part, in widths of the model."""
    dropout: Share = 0.0
    """Share of activations dropped while training."""
    positions: Positions = "rope"
    """How the model knows where a token stands."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    norm: Norm = "layernorm"
    """Normalisation before each part of a block."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance in each norm."""
    activation: Activation = "relu2"
    """Non-linearity of the feed-forward part; swiglu adds a gate."""
    bias: bool = False
    """Whether linear layers and layer norms have biases."""
    qk_norm: bool = True
    """Normalise queries and keys per head before attention."""
    window: PositiveInt | None = None
    """Tokens that attention looks back at, its own included; all of the context if not given."""
    tie_embeddings: bool = False
    """Share one matrix between the embedding and the head."""
    residual_init: ResidualInit = "scaled"
    """How projections into the residual stream begin: small, or as zeros."""
    logit_soft_cap: PositiveFloat | None = None
    """Bound c on logits, as c * tanh(logits / c)."""
    attention: AttentionBackend = "auto"
    """Attention implementation; one that is named and can't serve is an error."""

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.embed_dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward part."""
        return round(self.embed_dim * self.expansion_factor)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.embed_dim % self.n_heads:
            raise ConfigError(
                f"embed_dim is {self.embed_dim}, which n_heads {self.n_heads} does not divide; "
                f"write --embed_dim {-(-self.embed_dim // self.n_heads) * self.n_heads}"
            )
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                f"n_kv_heads is {self.kv_heads}, which does not divide n_heads {self.n_heads}; "
                "choose one of its divisors"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ConfigError(
                f"a head is {self.head_dim} wide, but rotary positions need an even width; "
                "change --embed_dim or --n_heads, or write --positions learned"
            )
        if self.positions == "sinusoidal" and self.embed_dim % 2:
            raise ConfigError(
                f"embed_dim is {self.embed_dim}, but sinusoidal positions need an even width; "
                f"write --embed_dim {self.embed_dim + 1}"
            )
        return self
