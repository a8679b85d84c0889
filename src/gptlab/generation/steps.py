"""How a model reads: whole prompts, and one token a row.

Letters: B rows, T prompt length, D model width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.model import GPT, KVCache


def prefill(model: GPT, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
    """Read prompts into empty rows of a cache; logits (B, V) of what follows each."""
    counts = [len(prompt) for prompt in prompts]
    tokens = torch.zeros(len(prompts), max(counts), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    hidden_BTD = model.hidden_states(tokens.to(cache.device), cache=cache, counts=counts)
    last = torch.tensor(counts, device=cache.device) - 1
    return model.logits(hidden_BTD[torch.arange(len(prompts), device=cache.device), last])


class Steps:
    """Reads single tokens with a model, operator by operator.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model

    def take_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache for this model."""
        return KVCache(
            self.model.config,
            batch_size=rows,
            capacity=capacity,
            device=self.model.device,
            dtype=_dtype(self.model),
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
