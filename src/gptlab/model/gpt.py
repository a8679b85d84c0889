"""GPT: a stack of blocks that predicts each token from those before it.

Letters: B batch, T new tokens, S tokens held, D model width, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlab.config import LoRA, ModelConfig, Quantization
from gptlab.errors import ConfigError
from gptlab.model.attention import Context
from gptlab.model.blocks import Block, make_norm
from gptlab.model.cache import KVCache, LayerCache
from gptlab.model.init import initialise
from gptlab.model.linear import Embedding, Linear
from gptlab.model.positions import (
    rotary_frequencies,
    rotary_scale,
    rotary_table,
    sinusoidal_table,
)
from gptlab.model.quantized import QuantizedMatrix


class GPT(nn.Module):
    """A decoder-only Transformer.

    Args:
        config: Its shape and parts.
        seed: Seed of the initial weights; torch's global generator draws them if None.
    """

    activation_checkpointing: bool = False
    """Whether training computes each block again on the way back instead of keeping what is in it
    (Chen et al. 2016, https://arxiv.org/abs/1604.06174): the same numbers in less memory."""

    quantization: Quantization | None = None
    """In how many bits its matrices are, if not in floating point."""

    lora: LoRA | None = None
    """What its adapters are, if it has some."""

    rotary_cos: Tensor
    rotary_sin: Tensor
    sinusoidal: Tensor

    def __init__(self, config: ModelConfig, *, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.embed_dim)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.seq_len, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = make_norm(config)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.embed_dim, config.vocab_size, bias=False)
        for name, table in self._position_tables().items():
            self.register_buffer(name, table.to(self.device), persistent=False)
        initialise(self, config, seed=seed)

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

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        counts: Sequence[int] | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens`, (B, T) int64.

        With a `cache`, `tokens` come after those it holds, and it holds them too afterwards: all
        T of each row, or the first `counts[b]` of row b where shorter rows are padded at the end.

        Args:
            tokens: What to read.
            cache: What was read before.
            counts: How many tokens of each row are no padding, with a cache.
            documents: (B, T) int64, a number for each token: it sees those before it in its row
                that have the same one. Which numbers they are does not matter.
            positions: (B, T) int64, where each token stands, below seq_len; 0 to T - 1 if None.

        Raises:
            ConfigError: There are more tokens than seq_len, or than the cache has room for; the
                rows, `counts`, `documents` or `positions` do not fit; or one of the latter two
                comes with a cache.
            BackendError: The model's attention backend can't keep documents apart.
        """
        hidden_BTD = self.hidden_states(
            tokens, cache=cache, counts=counts, documents=documents, positions=positions
        )
        return self.logits(hidden_BTD)

    def hidden_states(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        counts: Sequence[int] | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """What `logits` turns into logits: the last norm's output, (B, T, D); as `forward`."""
        B, T = tokens.shape
        limit = self.config.seq_len
        end = T + (max(cache.lengths) if cache is not None else 0)
        if end > limit:
            raise ConfigError(f"{end} tokens exceed the model's seq_len of {limit}; give fewer")
        _check_shapes(tokens, cache, documents=documents, positions=positions)
        if cache is None:
            positions = torch.arange(T, device=tokens.device) if positions is None else positions
        else:
            counts = cache.checked_counts(B, T, counts)
            positions = cache.positions_BT(T)
            hidden_BTD = self.read(tokens, positions, cache.layers(T), is_even=cache.is_even)
            cache.advance(counts)
            return hidden_BTD
        return self._transform(tokens, positions, self._context(positions, documents), None)

    def read(
        self,
        tokens: Tensor,
        positions_BT: Tensor,
        layers: Sequence[LayerCache],
        *,
        is_even: bool,
    ) -> Tensor:
        """Hidden states (B, T, D) of new tokens, which are written into a cache's `layers`.

        Tensors in, tensors out, with no look at numbers: what can be compiled.

        Args:
            tokens: (B, T) int64.
            positions_BT: Where they stand, int64, and are written.
            layers: Keys and values of each layer.
            is_even: Whether all rows held the same number of tokens before.
        """
        context = self._context(positions_BT, None)
        if not is_even:
            mask_BTS = self._cache_mask(positions_BT, layers[0].held)
            context = context._replace(mask_BTS=mask_BTS, window=None)
        return self._transform(tokens, positions_BT, context, layers)

    def _transform(
        self,
        tokens: Tensor,
        positions: Tensor,
        context: Context,
        layers: Sequence[LayerCache] | None,
    ) -> Tensor:
        x_BTD = self._embed(tokens, positions)
        is_learning = self.training and torch.is_grad_enabled() and layers is None
        for index, block in enumerate(self.blocks):
            if self.activation_checkpointing and is_learning:
                x_BTD = checkpoint(block, x_BTD, context, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, context, layers[index] if layers else None)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from hidden states (..., D)."""
        tied = self.config.tie_embeddings
        logits: Tensor = self.embedding.scores(hidden) if tied else self.lm_head(hidden)
        cap = self.config.logit_soft_cap
        # Gemma 2, https://arxiv.org/abs/2408.00118, section 2.
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return cast(Tensor, self.norm.weight).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of what it computes with."""
        return cast(Tensor, self.norm.weight).dtype

    @property
    def attention(self) -> str:
        """The backend that computes attention."""
        return cast(Block, self.blocks[0]).attention.backend

    def use_attention(self, backend: str) -> None:
        """Compute attention by another backend than the configuration names."""
        for block in self.blocks:
            cast(Block, block).attention.backend = backend

    def num_parameters(self) -> int:
        """Number of values that training finds; a shared matrix counts once, in any bits."""
        return sum(self._sizes().values())

    def flops_per_token(self) -> int:
        """Floating-point operations to train on one token, forward and backward.

        6 N + 12 L Q T: N counts the weights of matrix products, the head included, and Q is the
        width of all heads together, most often that of the model; attention is counted unmasked,
        as in the PaLM paper (https://arxiv.org/abs/2204.02311, appendix B).
        """
        config = self.config
        weights = sum(size for name, size in self._sizes().items() if "_proj.weight" in name)
        weights += config.vocab_size * config.embed_dim
        heads = config.n_heads * config.head_dim
        return 6 * weights + 12 * config.num_layers * heads * config.seq_len

    def _sizes(self) -> dict[str, int]:
        """How many values each parameter has, or had before it was quantized, by its name."""
        sizes = {name: parameter.numel() for name, parameter in self.named_parameters()}
        for name, module in self.named_modules():
            if isinstance(module, QuantizedMatrix):
                sizes[f"{name}.weight"] = math.prod(module.shape)
        return sizes

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x_BTD: Tensor = self.embedding(tokens)
        if self.config.positions == "learned":
            x_BTD = x_BTD + self.position_embedding(positions)
        elif self.config.positions == "sinusoidal":
            # The paper's scale keeps the token's part from drowning in the position's.
            scaled_BTD = x_BTD * math.sqrt(self.config.embed_dim)
            x_BTD = (scaled_BTD + self.sinusoidal[positions]).to(x_BTD.dtype)
        embedded: Tensor = self.dropout(x_BTD)
        return embedded

    def _context(self, positions: Tensor, documents_BT: Tensor | None) -> Context:
        rotary = None
        if self.config.positions == "rope":
            rotary = (self.rotary_cos[positions], self.rotary_sin[positions])
        mask_BTS = None if documents_BT is None else _document_mask(documents_BT)
        return Context(positions, rotary, mask_BTS, self.config.window)

    def _cache_mask(self, positions_BT: Tensor, held: int) -> Tensor:
        """Where a query may look among `held` places of a cache of uneven rows, (B, T, S) bool."""
        places_S = torch.arange(held, device=positions_BT.device)
        ago_BTS = positions_BT.unsqueeze(-1) - places_S
        mask_BTS = ago_BTS >= 0
        return mask_BTS if self.config.window is None else mask_BTS & (ago_BTS < self.config.window)


def _document_mask(documents_BT: Tensor) -> Tensor:
    """Where a query may look, (B, T, S) bool: not ahead, and at its own document alone."""
    same_BTS = documents_BT.unsqueeze(2) == documents_BT.unsqueeze(1)
    # In place: of long rows, a mask is the largest tensor beside the logits.
    return same_BTS.tril_()


def _check_shapes(tokens: Tensor, cache: KVCache | None, **places: Tensor | None) -> None:
    for name, tensor in places.items():
        if tensor is None:
            continue
        if cache is not None:
            raise ConfigError(f"{name} came with a cache, which counts on its own; leave one out")
        if tensor.shape != tokens.shape:
            raise ConfigError(
                f"{name} are {tuple(tensor.shape)}, but the tokens are {tuple(tokens.shape)}; "
                "give a number for each token"
            )
