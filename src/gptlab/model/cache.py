"""Keys and values of the tokens that a model has read, so that no token is computed twice.

Letters: B batch, T new tokens, S tokens held, C capacity, H heads of keys, K head width.
"""

import copy
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.errors import ConfigError
from gptlab.model.memory import Memory, SourceCache
from gptlab.model.positions import rotary_table, rotate


class KVCache:
    """Room for `capacity` tokens a row; rows may hold different numbers of tokens.

    For a decoder it has room for a source of `memory_capacity` tokens in each row, too.

    New tokens of a row are written behind those it holds. A shorter row of a batch is padded at
    its end: what padding writes lies beyond the row's length, where no query looks and the next
    token overwrites it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch_size: int,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_capacity: int = 0,
    ) -> None:
        self.capacity = config.seq_len if capacity is None else capacity
        self.device = torch.device(device)
        shape = (batch_size, self.capacity, config.kv_heads, config.head_dim)
        self._keys = [
            torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)
        ]
        self._values = [torch.zeros_like(keys) for keys in self._keys]
        self._sources = SourceCache(
            config,
            batch_size=batch_size,
            capacity=memory_capacity,
            device=self.device,
            dtype=dtype,
        )
        self._first = 0
        self._all_lengths = [0] * batch_size

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row holds."""
        return self._all_lengths[self._first : self._first + len(self)]

    @property
    def memory_lengths(self) -> list[int]:
        """Tokens of each row's source; 0 where it has none."""
        return self._sources.lengths

    @property
    def memory_capacity(self) -> int:
        """Tokens of the longest source that there is room for."""
        return self._sources.capacity

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._keys[0])

    def rows(self, start: int, stop: int) -> "KVCache":
        """Rows `start` to `stop` as a cache of their own, which is a part of this one."""
        view = copy.copy(self)
        view._keys = [keys[start:stop] for keys in self._keys]
        view._values = [values[start:stop] for values in self._values]
        view._sources = self._sources.rows(start, stop)
        view._first = self._first + start
        return view

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        held = sum(tensor.nbytes for tensor in (*self._keys, *self._values))
        return held + self._sources.nbytes

    def remember(self, memories: Sequence[Memory], lengths: Sequence[int]) -> None:
        """Keep what each layer reads of the rows' sources, which have `lengths` tokens.

        Raises:
            ConfigError: There are other than the cache's rows, or a source is longer than there is
                room for.
        """
        self._sources.remember(memories, lengths)

    def memories(self, *, whole: bool = False, counted: bool = False) -> list[Memory]:
        """Each layer's part of the sources; empty where the cache has room for none.

        Args:
            whole: All places that there are, and not only those of the longest source.
            counted: With lengths, even where all sources are of the same.
        """
        return self._sources.memories(whole=whole, counted=counted)

    def erase(self, row: int) -> None:
        """Empty a row that may hold numbers which are not finite; it has no source either then.

        A place that is masked out has the weight 0, and 0 times NaN is NaN: they would come
        through to the row's next tenant.
        """
        for tensor in (*self._keys, *self._values):
            tensor[row] = 0
        self.shorten(row, 0)
        self._sources.erase(row)

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what row `source` is."""
        held = self.lengths[source]
        for tensor in (*self._keys, *self._values):
            tensor[target, :held] = tensor[source, :held]
        self.shorten(target, held)
        self._sources.copy_row(source, target)

    def take_rows(self, order: Sequence[int]) -> None:
        """Make row i what row `order[i]` is now; rows may come several times, and be left out.

        It is no part of another cache afterwards, and others are no part of it.
        """
        index = torch.tensor(order, device=self.device)
        self._keys = [keys[index] for keys in self._keys]
        self._values = [values[index] for values in self._values]
        self._first, self._all_lengths = 0, [self.lengths[row] for row in order]
        self._sources.take_rows(order)

    def shorten(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of a row."""
        self._all_lengths[self._first + row] = length

    def drop_oldest(self, row: int, count: int, *, turns: Tensor | None) -> None:
        """Drop the first `count` tokens of a row; the others stand that much earlier.

        What was computed of them stays, so that they go on to tell of those which are gone.

        Args:
            row: The row.
            count: How many, less than it holds.
            turns: Frequencies of rotary positions, by which keys are turned back; None without.
        """
        kept = slice(count, self.lengths[row])
        length = kept.stop - count
        turn = None
        if turns is not None:
            cos, sin = rotary_table(count + 1, turns)
            turn = cos[-1:].to(self.device), -sin[-1:].to(self.device)
        for keys, values in zip(self._keys, self._values, strict=True):
            moved = keys[row, kept].clone()
            keys[row, :length] = moved if turn is None else rotate(moved, *turn)
            values[row, :length] = values[row, kept].clone()
        self.shorten(row, length)

    @property
    def is_even(self) -> bool:
        """Whether all rows hold the same number of tokens."""
        return len({*self.lengths}) == 1

    def checked_counts(
        self, rows: int, new_tokens: int, counts: Sequence[int] | None
    ) -> Sequence[int]:
        """How many of `new_tokens` each of `rows` rows keeps; all of them if `counts` is None.

        Raises:
            ConfigError: There are other than the cache's rows, or a count is out of range.
        """
        if rows != len(self):
            raise ConfigError(
                f"{rows} rows came, but the cache has {len(self)}; make one of that size"
            )
        if counts is None:
            return [new_tokens] * rows
        if len(counts) != rows:
            raise ConfigError(f"counts are {counts}, but {rows} rows came; give one a row")
        if not 0 <= min(counts) <= max(counts) <= new_tokens:
            raise ConfigError(
                f"counts are {counts}, but {new_tokens} tokens a row came; count from 0 to that"
            )
        return counts

    def positions_BT(self, new_tokens: int) -> Tensor:
        """Positions of the next `new_tokens` tokens of each row, (B, T) int64.

        Raises:
            ConfigError: They do not fit.
        """
        if max(self.lengths) + new_tokens > self.capacity:
            raise ConfigError(
                f"{new_tokens} more tokens after {max(self.lengths)} exceed the cache's capacity "
                f"of {self.capacity}; give fewer tokens or a larger cache"
            )
        starts_B = torch.tensor(self.lengths, device=self.device)
        return starts_B.unsqueeze(1) + torch.arange(new_tokens, device=self.device)

    def layers(self, new_tokens: int) -> "list[LayerCache]":
        """Each layer's part, for `new_tokens` more tokens of each row."""
        held = max(self.lengths) + new_tokens
        pairs = zip(self._keys, self._values, strict=True)
        memories: Iterable[Memory | None] = self.memories() or repeat(None)
        return [
            LayerCache(keys, values, held, memory)
            for (keys, values), memory in zip(pairs, memories, strict=False)
        ]

    def advance(self, counts: Sequence[int]) -> None:
        """Count `counts[b]` tokens just written to row b as held."""
        for row, count in enumerate(counts):
            self._all_lengths[self._first + row] += count


class LayerCache(NamedTuple):
    """One layer's keys and values during one forward pass."""

    keys: Tensor
    """(B, C, H, K)"""
    values: Tensor
    """(B, C, H, K)"""
    held: int
    """Tokens of the longest row, the new ones included."""
    memory: Memory | None = None
    """What a decoder reads of its sources."""

    def append(self, k_BTHK: Tensor, v_BTHK: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values; all that are held then, (B, S, H, K) each."""
        rows_B1 = torch.arange(len(k_BTHK), device=k_BTHK.device).unsqueeze(1)
        self.keys[rows_B1, positions_BT] = k_BTHK.to(self.keys.dtype)
        self.values[rows_B1, positions_BT] = v_BTHK.to(self.values.dtype)
        return self.keys[:, : self.held], self.values[:, : self.held]
