"""A stack of blocks between an embedding and logits: what a GPT, an encoder and a decoder share.

Letters: B batch, T length, D model width, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlab.config import ModelConfig
from gptlab.errors import ConfigError
from gptlab.model.blocks import Block, make_norm
from gptlab.model.cache import LayerCache
from gptlab.model.dropout import Dropout
from gptlab.model.init import initialise
from gptlab.model.linear import Embedding, Linear
from gptlab.model.multi_head import Context
from gptlab.model.network import Network
from gptlab.model.positions import (
    rotary_frequencies,
    rotary_scale,
    rotary_table,
    sinusoidal_table,
)

AnyStack = TypeVar("AnyStack", bound="Stack")


class Stack(Network):
    """Token ids to hidden states, and these to logits.

    Args:
        config: Its shape and parts.
        seed: Seed of the initial weights; torch's global generator draws them if None.
        lender: Whose embedding it uses instead of one of its own.
        has_logits: Whether its hidden states become logits.
    """

    has_memory: ClassVar[bool] = False
    """Whether its blocks read a memory, too."""

    rotary_cos: Tensor
    rotary_sin: Tensor
    sinusoidal: Tensor

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int | None = None,
        lender: "Stack | None" = None,
        has_logits: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.has_logits = has_logits
        """Whether its hidden states become logits."""
        # In a tuple it is no part of this module, and what the lender has instead one day is found.
        self._lender = () if lender is None else (lender,)
        if lender is None:
            self.embedding = Embedding(config.vocab_size, config.embed_dim)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.seq_len, config.embed_dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config, has_memory=self.has_memory) for _ in range(config.num_layers)
        )
        # With the norms behind its parts, the last block ends with one.
        self.norm = make_norm(config) if config.norm_place == "pre" else nn.Identity()
        if has_logits and not config.tie_embeddings:
            self.lm_head = Linear(config.embed_dim, config.vocab_size, bias=False)
        self.head = None
        for name, table in self._position_tables().items():
            self.register_buffer(name, table.to(self.device), persistent=False)
        initialise(self, config, seed=seed)

    @property
    def is_part(self) -> bool:
        """Whether it is the encoder or the decoder of an encoder-decoder, and nothing alone."""
        return self.has_memory or not self.has_logits

    @property
    def all_blocks(self) -> Sequence[Block]:
        """Its blocks, in the order in which they compute."""
        return cast(Sequence[Block], self.blocks)

    def read_texts(self, tokens: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states (B, T, D) of texts of `lengths_B` tokens, filled up at the end to T.

        What is in the place of the filling comes to nothing but the states there.
        """
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from hidden states (..., D)."""
        tied = self.config.tie_embeddings
        logits: Tensor = self._embedding.scores(hidden) if tied else self.lm_head(hidden)
        cap = self.config.logit_soft_cap
        # Gemma 2, https://arxiv.org/abs/2408.00118, section 2.
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def flops_per_token(self) -> int:
        """Floating-point operations to train on one token, forward and backward.

        6 N + 12 L Q T: N counts the weights of matrix products, the head included, and Q is the
        width of all heads together, most often that of the model; attention is counted unmasked,
        as in the PaLM paper (https://arxiv.org/abs/2204.02311, appendix B). A decoder's attention
        to a memory of T tokens counts like that to its own.
        """
        config = self.config
        weights = sum(size for name, size in self._sizes().items() if "_proj.weight" in name)
        if self.has_logits:
            weights += config.vocab_size * config.embed_dim
        attentions = config.num_layers * (2 if self.has_memory else 1)
        return 6 * weights + 12 * attentions * config.n_heads * config.head_dim * config.seq_len

    @property
    def _embedding(self) -> Embedding:
        return self._lender[0].embedding if self._lender else self.embedding

    def _position_tables(self) -> dict[str, Tensor]:
        config = self.config
        # The same on every device, and torch would load its compiler to make none on "meta".
        with torch.device("cpu"):
            if config.positions == "rope":
                turns, scale = rotary_frequencies(config), rotary_scale(config)
                cos, sin = rotary_table(config.seq_len, turns, scale=scale)
                return {"rotary_cos": cos, "rotary_sin": sin}
            if config.positions == "sinusoidal":
                return {"sinusoidal": sinusoidal_table(config.seq_len, config.embed_dim)}
            return {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # In 16 bits, far positions would become alike; and tables made without memory are empty.
        for name, table in self._position_tables().items():
            setattr(self, name, table.to(self.device))
        return self

    def _transform(
        self,
        tokens: Tensor,
        positions: Tensor,
        context: Context,
        layers: Sequence[LayerCache] | None = None,
    ) -> Tensor:
        """The last norm's output, (B, T, D)."""
        x_BTD = self._embed(tokens, positions)
        is_learning = self.training and torch.is_grad_enabled() and layers is None
        for index, block in enumerate(self.all_blocks):
            if block.is_recomputed and is_learning:
                x_BTD = checkpoint(block, x_BTD, context, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, context, layers[index] if layers else None)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x_BTD: Tensor = self._embedding(tokens)
        if self.config.positions == "learned":
            x_BTD = x_BTD + self.position_embedding(positions)
        elif self.config.positions == "sinusoidal":
            # The paper's scale keeps the token's part from drowning in the position's.
            scaled_BTD = x_BTD * math.sqrt(self.config.embed_dim)
            x_BTD = (scaled_BTD + self.sinusoidal[positions]).to(x_BTD.dtype)
        embedded: Tensor = self.dropout(x_BTD)
        return embedded

    def _context(self, positions: Tensor) -> Context:
        rotary = None
        if self.config.positions == "rope":
            rotary = (self.rotary_cos[positions], self.rotary_sin[positions])
        return Context(positions, rotary, window=self.config.window)

    def _require_room(self, end: int) -> None:
        limit = self.config.seq_len
        if end > limit:
            raise ConfigError(f"{end} tokens exceed the model's seq_len of {limit}; give fewer")


def require_alone(model: Network, what: str) -> None:
    """Refuse what is done with one stack of blocks, of which nothing else is a part.

    Raises:
        ConfigError: The model is an encoder-decoder, or a part of one; `what` it can't do.
    """
    if not isinstance(model, Stack) or model.is_part:
        raise ConfigError(
            f"an encoder-decoder, or a part of one, can't {what}; give a GPT or an encoder alone"
        )
