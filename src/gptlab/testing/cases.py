"""What a model is checked with, and how two results are compared.

Letters: B batch, S source length, T length, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gptlab.model import GPT, Encoder, KVCache, Transformer

AnyModel = GPT | Encoder | Transformer
_ROWS, _LENGTH = 3, 12


@dataclass(frozen=True)
class Case:
    """A model and the tokens that it reads; for an encoder-decoder, targets and their sources."""

    model: AnyModel
    tokens: Tensor
    """(B, T) int64"""
    sources: Tensor | None = None
    """(B, S) int64"""
    lengths_B: Tensor | None = None
    """Tokens of each source, int64."""

    @classmethod
    def of(cls, model: AnyModel, tokens: Tensor | None) -> "Case":
        """The tokens given, or some that are drawn at random; with sources if need be."""
        length, device = min(_LENGTH, model.config.seq_len), model.device
        generator = torch.Generator().manual_seed(0)
        if tokens is None:
            shape = (_ROWS, length)
            tokens = torch.randint(model.config.vocab_size, shape, generator=generator).to(device)
        if not isinstance(model, Transformer):
            return cls(model, tokens)
        shape = (len(tokens), length)
        sources = torch.randint(model.config.source_size, shape, generator=generator)
        lengths_B = (length - torch.arange(len(tokens))).clamp(min=1)
        return cls(model, tokens, sources.to(device), lengths_B.to(device))

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of `tokens`, beside the sources."""
        if isinstance(self.model, Transformer):
            assert self.sources is not None
            found: Tensor = self.model(self.sources, tokens, source_lengths=self.lengths_B)
        else:
            found = self.model(tokens)
        return found

    def rows(self) -> list["Case"]:
        """Each row alone, its source without filling."""
        if self.sources is None or self.lengths_B is None:
            return [replace(self, tokens=row.unsqueeze(0)) for row in self.tokens]
        rows = zip(self.tokens, self.sources, self.lengths_B.tolist(), strict=True)
        return [
            Case(self.model, row.unsqueeze(0), source[:length].unsqueeze(0))
            for row, source, length in rows
        ]

    def with_other_filling(self) -> "Case":
        """The same with other ids behind the sources."""
        assert isinstance(self.model, Transformer)
        assert self.sources is not None
        assert self.lengths_B is not None
        places_S = torch.arange(self.sources.shape[1], device=self.sources.device)
        is_filling_BS = places_S >= self.lengths_B.unsqueeze(1)
        others = (self.sources + 1) % self.model.config.source_size
        return replace(self, sources=torch.where(is_filling_BS, others, self.sources))

    @property
    def reader(self) -> GPT:
        """What reads tokens through a cache."""
        model = self.model.decoder if isinstance(self.model, Transformer) else self.model
        assert not isinstance(model, Encoder)
        return model

    def new_cache(self) -> KVCache:
        """A cache for the tokens, that remembers the sources."""
        config = self.reader.config
        cache = KVCache(
            config,
            batch_size=self.tokens.shape[0],
            capacity=self.tokens.shape[1],
            device=self.model.device,
            dtype=self.model.dtype,
            memory_capacity=0 if self.sources is None else self.sources.shape[1],
        )
        if isinstance(self.model, Transformer):
            assert self.sources is not None
            assert self.lengths_B is not None
            memories = self.model.remember(self.sources, lengths=self.lengths_B)
            cache.remember(memories, self.lengths_B.tolist())
        return cache


def compare(invariant: str, actual: Tensor, expected: Tensor, tolerance: float | None) -> None:
    """Hold a result against another.

    Raises:
        AssertionError: They are further apart than the tolerance.
    """
    precision = torch.finfo(expected.dtype)
    allowed = precision.eps**0.5 if tolerance is None else tolerance
    scale = expected.abs().max().clamp_min(precision.tiny)
    deviation = ((actual - expected).abs().max() / scale).item()
    # The negation also catches a deviation that is no number.
    if not deviation <= allowed:
        raise AssertionError(
            f"{invariant} does not hold: the largest deviation is {deviation:.2g}, the tolerance "
            f"{allowed:.2g}"
        )


@contextmanager
def evaluating(model: AnyModel) -> Iterator[None]:
    """The model without dropout, and afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
