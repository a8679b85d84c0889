"""What a decoder remembers of its sources: keys and values, computed once a source.

Letters: B batch, S tokens of a source, C capacity, H heads of keys, K head width.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.errors import ConfigError


class Memory(NamedTuple):
    """What a layer of a decoder reads of its sources."""

    keys: Tensor
    """(B, S, H, K)"""
    values: Tensor
    """(B, S, H, K)"""
    lengths_B: Tensor | None
    """Tokens of each source, int64, the rest being filling; None where all have S."""


class SourceCache:
    """Room for a source of `capacity` tokens in each row; no layer has any if that is 0."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch_size: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.capacity, self._device = capacity, device
        # Keys, then values.
        shape = (2, batch_size, capacity, config.kv_heads, config.head_dim)
        layers = config.num_layers if capacity else 0
        self._layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self._first, self._rows = 0, batch_size
        self._all_lengths = [0] * batch_size

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row's source; 0 where it has none."""
        return self._all_lengths[self._first : self._first + self._rows]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(layer.nbytes for layer in self._layers)

    def rows(self, start: int, stop: int) -> "SourceCache":
        """Rows `start` to `stop`, which are a part of this one."""
        view = copy.copy(self)
        view._layers = [layer[:, start:stop] for layer in self._layers]
        view._first, view._rows = self._first + start, stop - start
        return view

    def remember(self, memories: Sequence[Memory], lengths: Sequence[int]) -> None:
        """Keep what each layer reads of the rows' sources, as `KVCache.remember` says."""
        if len(lengths) != self._rows:
            raise ConfigError(
                f"{len(lengths)} sources came, but the cache has {self._rows} rows; give one a row"
            )
        counts = {len(memory.keys) for memory in memories}
        if counts != {self._rows}:
            raise ConfigError(
                f"the memories are of {sorted(counts)} sources, but the cache has {self._rows} "
                "rows; give one a row"
            )
        longest = max(lengths)
        if longest > self.capacity:
            raise ConfigError(
                f"a source of {longest} tokens exceeds the cache's memory_capacity of "
                f"{self.capacity}; give a shorter source or a larger cache"
            )
        for layer, memory in zip(self._layers, memories, strict=True):
            layer[0, :, :longest] = memory.keys[:, :longest]
            layer[1, :, :longest] = memory.values[:, :longest]
        self._all_lengths[self._first : self._first + self._rows] = lengths

    def erase(self, row: int) -> None:
        """Let a row have no source, and no numbers that are not finite."""
        for layer in self._layers:
            layer[:, row] = 0
        self._all_lengths[self._first + row] = 0

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what row `source` is."""
        size = self.lengths[source]
        for layer in self._layers:
            layer[:, target, :size] = layer[:, source, :size]
        self._all_lengths[self._first + target] = size

    def take_rows(self, order: Sequence[int]) -> None:
        """Make row i what row `order[i]` is now."""
        index = torch.tensor(order, device=self._device)
        lengths = [self.lengths[row] for row in order]
        self._layers = [layer[:, index] for layer in self._layers]
        self._first, self._rows, self._all_lengths = 0, len(order), lengths

    def memories(self, *, whole: bool = False, counted: bool = False) -> list[Memory]:
        """Each layer's part, as `KVCache.memories` says."""
        if not self._layers:
            return []
        lengths = self.lengths
        longest = self.capacity if whole else max(lengths)
        lengths_B = None
        if counted or min(lengths) < longest:
            lengths_B = torch.tensor(lengths, device=self._device)
        return [
            Memory(layer[0, :, :longest], layer[1, :, :longest], lengths_B)
            for layer in self._layers
        ]
