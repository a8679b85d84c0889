"""Keys and values of the tokens that a model has read, so that no token is computed twice.

Letters: B batch, T new tokens, S tokens held, C capacity, H heads of keys, K head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.errors import ConfigError


class KVCache:
    """Room for `capacity` tokens a row; rows may hold different numbers of tokens.

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
    ) -> None:
        self.capacity = config.seq_len if capacity is None else capacity
        self.lengths = [0] * batch_size
        self.device = torch.device(device)
        shape = (batch_size, self.capacity, config.kv_heads, config.head_dim)
        self._keys = [
            torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)
        ]
        self._values = [torch.zeros_like(keys) for keys in self._keys]
        self._rows = slice(0, batch_size)

    def rows(self, start: int, stop: int) -> "KVCache":
        """A cache over rows `start` to `stop` that shares this one's memory, emptied.

        What is read into it shows here after `take_lengths`.
        """
        view = object.__new__(KVCache)
        view.capacity, view.device = self.capacity, self.device
        view.lengths = [0] * (stop - start)
        view._keys = [keys[start:stop] for keys in self._keys]
        view._values = [values[start:stop] for values in self._values]
        view._rows = slice(start, stop)
        return view

    def take_lengths(self, view: "KVCache") -> None:
        """Adopt the lengths of the rows that `view` shares."""
        self.lengths[view._rows] = view.lengths

    def take_rows(self, order: Sequence[int]) -> None:
        """Make row i what row `order[i]` is now; rows may come several times, and be left out."""
        index = torch.tensor(order, device=self.device)
        self._keys = [keys[index] for keys in self._keys]
        self._values = [values[index] for values in self._values]
        self.lengths = [self.lengths[row] for row in order]

    def forget(self, row: int) -> None:
        """Empty a row."""
        self.lengths[row] = 0

    @property
    def is_even(self) -> bool:
        """Whether all rows hold the same number of tokens."""
        return min(self.lengths) == max(self.lengths)

    def checked_counts(
        self, rows: int, new_tokens: int, counts: Sequence[int] | None
    ) -> Sequence[int]:
        """How many of `new_tokens` each of `rows` rows keeps; all of them if `counts` is None.

        Raises:
            ConfigError: There are other than the cache's rows, or a count is out of range.
        """
        if rows != len(self.lengths):
            raise ConfigError(
                f"{rows} rows came, but the cache has {len(self.lengths)}; make one of that size"
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

    def layer(self, index: int, positions_BT: Tensor) -> "LayerCache":
        """The part of layer `index`, for new tokens at `positions_BT`."""
        held = max(self.lengths) + positions_BT.shape[1]
        return LayerCache(self._keys[index], self._values[index], positions_BT, held)

    def advance(self, counts: Sequence[int]) -> None:
        """Count `counts[b]` tokens just written to row b as held."""
        self.lengths = [n + count for n, count in zip(self.lengths, counts, strict=True)]


class LayerCache:
    """One layer's keys and values during one forward pass."""

    def __init__(self, keys: Tensor, values: Tensor, positions_BT: Tensor, held: int) -> None:
        self._keys, self._values, self._positions_BT, self._held = keys, values, positions_BT, held

    def append(self, k_BTHK: Tensor, v_BTHK: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values; all that are held then, (B, S, H, K) each."""
        rows_B1 = torch.arange(len(k_BTHK), device=k_BTHK.device).unsqueeze(1)
        self._keys[rows_B1, self._positions_BT] = k_BTHK.to(self._keys.dtype)
        self._values[rows_B1, self._positions_BT] = v_BTHK.to(self._values.dtype)
        return self._keys[:, : self._held], self._values[:, : self._held]
