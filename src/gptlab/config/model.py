"""What a network is made of."""

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt, model_validator

from gptlab.config.settings import Settings
from gptlab.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positions = Literal["rope", "sinusoidal", "learned", "none"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlace = Literal["pre", "post"]
Activation = Literal["gelu", "gelu_tanh", "swiglu", "relu", "relu2"]
RopeScaling = Literal["linear", "llama3", "yarn"]
ResidualInit = Literal["scaled", "zero"]
AttentionBackend = Literal["auto", "reference", "sdpa", "blocked", "flash"]


class ModelConfig(Settings):
    """The shape and the parts of a GPT, of an encoder, or of a part of an encoder-decoder."""

    vocab_size: Annotated[
        PositiveInt, Field(validation_alias=AliasChoices("tgt_vocab_size", "vocab_size"))
    ] = 384
    """Number of token ids, special tokens included."""
    seq_len: Annotated[
        PositiveInt, Field(validation_alias=AliasChoices("max_seq_length", "seq_len"))
    ] = 256
    """Tokens in a training window; the longest context."""
    embed_dim: PositiveInt = 384
    """Width of the model."""
    num_layers: PositiveInt = 6
    """Number of blocks."""
    n_heads: PositiveInt = 6
    """Attention heads a block."""
    n_kv_heads: PositiveInt | None = None
    """Heads of keys and values, shared by groups of query heads; n_heads if not given."""
    head_width: PositiveInt | None = None
    """Width of a head; embed_dim / n_heads if not given."""
    expansion_factor: PositiveFloat = 4
    """Width of the feed-forward part, in widths of the model."""
    dropout: Share = 0.0
    """Share of activations dropped while training."""
    positions: Positions = "rope"
    """How the model knows where a token stands."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    rotary_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of a head that turns with the position."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions are stretched over more than a model learned; not at all if none."""
    rope_factor: Annotated[float, Field(ge=1.0)] = 1.0
    """By how much they are stretched."""
    rope_original_len: PositiveInt | None = None
    """Context before the stretch, for llama3 and yarn."""
    rope_low_turns: PositiveFloat = 1.0
    """llama3, yarn: what turns fewer times in that context is stretched by the whole factor."""
    rope_high_turns: PositiveFloat | None = None
    """What turns more often stays as it was; 4 for llama3 and 32 for yarn if not given."""
    rope_attention_factor: PositiveFloat | None = None
    """yarn: factor of rotated queries and keys; 0.1 ln(rope_factor) + 1 if not given."""
    norm: Norm = "layernorm"
    """Normalisation of each part of a block."""
    norm_place: NormPlace = "pre"
    """Whether it is of what a part reads, or of the sum that it is added to."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance in each norm."""
    activation: Activation = "relu2"
    """Non-linearity of the feed-forward part; swiglu adds a gate."""
    bias: bool = False
    """Whether linear layers and layer norms have biases."""
    qkv_bias: bool | None = None
    """Whether queries, keys and values have biases; as bias says if not given."""
    qk_norm: bool = True
    """Normalise queries and keys per head before attention."""
    window: PositiveInt | None = None
    """Tokens that attention looks back at, its own included; all of the context if not given."""
    parallel_residual: bool = False
    """Let both parts of a block read its input, instead of the second what the first made of it."""
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
        return self.head_width or self.embed_dim // self.n_heads

    @property
    def rotary_dim(self) -> int:
        """Coordinates of a head that turn with the position."""
        return int(self.head_dim * self.rotary_share)

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
        if self.head_width is None and self.embed_dim % self.n_heads:
            raise ConfigError(
                f"embed_dim is {self.embed_dim}, which n_heads {self.n_heads} does not divide; "
                f"write --embed_dim {-(-self.embed_dim // self.n_heads) * self.n_heads}"
            )
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                f"n_kv_heads is {self.kv_heads}, which does not divide n_heads {self.n_heads}; "
                "choose one of its divisors"
            )
        if self.positions == "rope" and (self.rotary_dim % 2 or not self.rotary_dim):
            what = "a head is" if self.rotary_share == 1 else "the turning share of a head is"
            raise ConfigError(
                f"{what} {self.rotary_dim} wide, but rotary positions need an even width; "
                "change --embed_dim or --n_heads, or write --positions learned"
            )
        if self.rope_scaling in ("llama3", "yarn") and self.rope_original_len is None:
            raise ConfigError(
                f"rope_scaling is '{self.rope_scaling}', which needs the context before the "
                "stretch; write --rope_original_len"
            )
        if self.parallel_residual and self.norm_place == "post":
            raise ConfigError(
                "parallel_residual needs the norms before the parts; write --norm_place pre"
            )
        if self.positions == "sinusoidal" and self.embed_dim % 2:
            raise ConfigError(
                f"embed_dim is {self.embed_dim}, but sinusoidal positions need an even width; "
                f"write --embed_dim {self.embed_dim + 1}"
            )
        return self
