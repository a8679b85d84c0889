"""GPT: a stack of blocks that predicts each token from those before it.

Letters: B batch, T new tokens, S tokens held, D model width, V vocabulary.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gptlab.config.transformer import Architecture
from gptlab.errors import ConfigError
from gptlab.model.cache import KVCache, LayerCache
from gptlab.model.stack import Stack


class GPT(Stack):
    """A decoder-only Transformer.

    Args:
        config: Its shape and parts.
        seed: Seed of the initial weights; torch's global generator draws them if None.
    """

    architecture: ClassVar[Architecture] = "gpt"

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
        self._require_room(T + (max(cache.lengths) if cache is not None else 0))
        _check_shapes(tokens, cache, documents=documents, positions=positions)
        if cache is None:
            positions = torch.arange(T, device=tokens.device) if positions is None else positions
        else:
            counts = cache.checked_counts(B, T, counts)
            positions = cache.positions_BT(T)
            hidden_BTD = self.read(tokens, positions, cache.layers(T), is_even=cache.is_even)
            cache.advance(counts)
            return hidden_BTD
        mask_BTS = None if documents is None else _document_mask(documents)
        context = self._context(positions)._replace(mask_BTS=mask_BTS)
        return self._transform(tokens, positions, context)

    def read_texts(self, tokens: Tensor, lengths_B: Tensor) -> Tensor:  # noqa: ARG002
        """Hidden states (B, T, D) of texts that are filled up at the end, which no token sees."""
        return self.hidden_states(tokens)

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
        context = self._context(positions_BT)
        if not is_even:
            mask_BTS = self._cache_mask(positions_BT, layers[0].held)
            context = context._replace(mask_BTS=mask_BTS, window=None)
        return self._transform(tokens, positions_BT, context, layers)

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
