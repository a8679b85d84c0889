"""torch.nn.Transformer as its users complete it: embeddings, positions, masks, a head, a loop.

The tutorial: https://pytorch.org/tutorials/beginner/translation_transformer.html.

Letters: B batch, S source length, T target length, D model width, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

PAD = 0
DROPOUT = 0.1
_EXPANSION, _LONGEST = 4, 512


class PeerTransformer(nn.Module):
    """Sources and targets to logits."""

    positions: Tensor

    def __init__(self, *, vocab_size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.core = nn.Transformer(
            width, heads, layers, layers, _EXPANSION * width, DROPOUT, batch_first=True
        )
        self.source = nn.Embedding(vocab_size, width)
        self.target = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("positions", sinusoidal(width))

    def forward(self, source_BS: Tensor, target_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        is_filling_BS = source_BS == PAD
        hidden_BTD = self.core(
            self._embed(self.source, source_BS),
            self._embed(self.target, target_BT),
            tgt_mask=future(target_BT),
            src_key_padding_mask=is_filling_BS,
            tgt_key_padding_mask=target_BT == PAD,
            memory_key_padding_mask=is_filling_BS,
        )
        return self.head(hidden_BTD)

    def greedy(self, source_BS: Tensor, *, start: int, new_tokens: int) -> Tensor:
        """The likeliest tokens one after the other, (B, T) int64; sources are of one length."""
        memory_BSD = self.core.encoder(self._embed(self.source, source_BS))
        tokens = torch.full((len(source_BS), 1), start, device=source_BS.device)
        for _ in range(new_tokens):
            hidden_BTD = self.core.decoder(
                self._embed(self.target, tokens), memory_BSD, tgt_mask=future(tokens)
            )
            next_B1 = self.head(hidden_BTD[:, -1]).argmax(dim=-1, keepdim=True)
            tokens = torch.cat((tokens, next_B1), dim=1)
        return tokens[:, 1:]

    def _embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        scaled = embedding(tokens) * math.sqrt(embedding.embedding_dim)
        return self.dropout(scaled + self.positions[: tokens.shape[1]])


def future(tokens: Tensor) -> Tensor:
    """Where a token may not look, (T, T) bool."""
    size = tokens.shape[1]
    return torch.ones(size, size, dtype=torch.bool, device=tokens.device).triu(1)


def sinusoidal(width: int) -> Tensor:
    """Fixed positions, (P, D)."""
    rates = torch.exp(-torch.arange(0, width, 2) * math.log(10_000) / width)
    angles = torch.arange(_LONGEST).unsqueeze(1) * rates
    table = torch.zeros(_LONGEST, width)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


def peer_batches(
    pairs: Sequence[tuple[Tensor, ...]], *, batch_size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Sources, inputs and targets in random order, filled up to the longest, without end."""

    def collate(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(
            pad_sequence(list(side), batch_first=True, padding_value=PAD)
            for side in zip(*rows, strict=True)
        )

    loader = DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(0),
    )
    while True:
        yield from loader
