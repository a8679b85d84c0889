"""The decoder of an encoder-decoder: a GPT that also looks at what an encoder read.

Letters: B batch, S source length, T target length, D model width.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gptlab.errors import ConfigError
from gptlab.model.cache import KVCache, Memory
from gptlab.model.gpt import GPT


class Decoder(GPT):
    """A part of a `Transformer`. With a cache that remembers sources it generates like a GPT."""

    has_memory: ClassVar[bool] = True

    def hidden_states(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        counts: Sequence[int] | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """As a GPT's, with a cache that remembers the rows' sources.

        Raises:
            ConfigError: There is no such cache; or as a GPT's.
        """
        if cache is None or not all(cache.memory_lengths):
            raise ConfigError(
                "a decoder reads targets beside a source; call the Transformer that it is of, or "
                "give a cache that remembers one for each row"
            )
        return super().hidden_states(
            tokens, cache=cache, counts=counts, documents=documents, positions=positions
        )

    def read_beside(
        self, target: Tensor, memory_BSD: Tensor, *, lengths: Tensor | None = None
    ) -> Tensor:
        """Hidden states (B, T, D) of whole targets beside what the encoder made of their sources.

        Args:
            target: (B, T) int64.
            memory_BSD: The encoder's output.
            lengths: (B,) int64, tokens of each source; S if None.
        """
        T = target.shape[1]
        self._require_room(T)
        positions = torch.arange(T, device=target.device)
        context = self._context(positions)._replace(memory_BSD=memory_BSD, memory_lengths_B=lengths)
        return self._transform(target, positions, context)

    def remember(self, memory_BSD: Tensor, *, lengths: Tensor | None = None) -> list[Memory]:
        """What each layer reads of sources, for `KVCache.remember`."""
        return [block.remember(memory_BSD, lengths) for block in self.all_blocks]
