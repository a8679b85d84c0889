"""How a model reads: whole prompts, and one token a row.

Letters: B rows, T prompt length, D model width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.errors import ConfigError
from gptlab.model import GPT, KVCache, Network, Transformer


def reader_of(model: Network) -> GPT:
    """What goes on with texts: the model itself, or the decoder of one with an encoder.

    Raises:
        ConfigError: It is an encoder alone.
    """
    if isinstance(model, Transformer):
        return model.decoder
    if not isinstance(model, GPT):
        raise ConfigError(
            f"a network of architecture '{model.architecture}' reads texts and writes none; give "
            "a GPT or an encoder-decoder"
        )
    return model


def read_sources(model: Transformer, sources: Sequence[Sequence[int]], cache: KVCache) -> None:
    """Let the rows of a cache remember their sources."""
    tokens, lengths_B = filled_up(sources, device=cache.device)
    is_even = int(lengths_B.min()) == tokens.shape[1]
    memories = model.remember(tokens, lengths=None if is_even else lengths_B)
    cache.remember(memories, [len(source) for source in sources])


def filled_up(rows: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids filled up at the end, (B, T) int64, and their lengths, (B,) int64."""
    lengths = [len(row) for row in rows]
    tokens = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
    return tokens.to(device), torch.tensor(lengths, device=device)


def prefill(model: GPT, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
    """Read prompts into empty rows of a cache; logits (B, V) of what follows each."""
    tokens, lengths_B = filled_up(prompts, device=cache.device)
    counts = [len(prompt) for prompt in prompts]
    hidden_BTD = model.hidden_states(tokens, cache=cache, counts=counts)
    rows = torch.arange(len(prompts), device=cache.device)
    return model.logits(hidden_BTD[rows, lengths_B - 1])


class Steps:
    """Reads single tokens with a model, operator by operator.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model

    def take_cache(self, rows: int, capacity: int, *, memory_capacity: int = 0) -> KVCache:
        """An empty cache for this model; a decoder's has room for sources, too."""
        return KVCache(
            self.model.config,
            batch_size=rows,
            capacity=capacity,
            device=self.model.device,
            dtype=_dtype(self.model),
            memory_capacity=memory_capacity,
        )

    def give_back(self, cache: KVCache) -> None:
        """Say that nobody uses `cache` any more."""

    def decode(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Read one more token a row; logits (B, V) of what follows it."""
        tokens_B1 = torch.tensor(tokens, device=cache.device).unsqueeze(1)
        logits_B1V: Tensor = self.model(tokens_B1, cache=cache)
        return logits_B1V[:, 0]


def _dtype(model: GPT) -> torch.dtype:
    """The type of the keys and values that the model makes."""
    if torch.is_autocast_enabled(model.device.type):
        return torch.get_autocast_dtype(model.device.type)
    return model.dtype
