"""How near gptlab's Transformer comes to those of others with the same weights; of parity.py."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformer_peers import filling, loss_of, m2m_peer, marian_peer, rows, torch_peer
from transformer_weights import Peer

from gptlab.config import TransformerConfig

STEPS = 10
SHAPE = {
    "vocab_size": 131,
    "seq_len": 64,
    "embed_dim": 96,
    "num_layers": 3,
    "encoder_layers": 3,
    "n_heads": 6,
    "expansion_factor": 2,
}
LENGTHS = ((64, 33, 1, 50), (40, 64, 25, 9))
"""Tokens of four sources, and of their targets."""


def torch_settings(place: str, activation: str) -> TransformerConfig:
    return TransformerConfig(
        **SHAPE,
        norm_place=place,
        activation=activation,
        positions="sinusoidal",
        bias=True,
        qk_norm=False,
        share_embeddings=False,
    )


ENCODER_DECODERS: Mapping[str, Callable[[torch.dtype], Peer]] = {
    "torch.nn.Transformer, norms behind, ReLU": lambda dtype: torch_peer(
        torch_settings("post", "relu"), dtype
    ),
    "torch.nn.Transformer, norms before, GELU": lambda dtype: torch_peer(
        torch_settings("pre", "gelu"), dtype
    ),
    "Marian": lambda dtype: marian_peer(SHAPE, dtype),
    "Marian, embedding not scaled": lambda dtype: marian_peer(SHAPE, dtype, scale=False),
    "M2M-100": lambda dtype: m2m_peer(SHAPE, dtype),
    "M2M-100, embedding not scaled": lambda dtype: m2m_peer(SHAPE, dtype, scale=False),
}


def measure_all() -> dict[str, dict[str, float]]:
    """The figures of each, by its name."""
    return {name: measure(make) for name, make in ENCODER_DECODERS.items()}


def measure(make: Callable[[torch.dtype], Peer]) -> dict[str, float]:
    """The figures of one; weights after steps where one of theirs is one of ours."""
    figures = {"logits": 0.0, "loss": 0.0, "gradients": 0.0}
    single, peer = make(torch.float32), make(torch.float64)
    figures["logits"] = difference(*both_logits(peer))
    losses, found, expected = gradients(peer, peer.ours())
    figures["loss"] = difference(*losses)
    # A key's bias moves all scores of a query alike: its gradient is zero but for rounding.
    least = max(gradient.abs().max() for gradient in expected.values()) / 1000
    figures["gradients"] = max(
        ((found[name] - one).abs().max() / one.abs().max().clamp_min(least)).item()
        for name, one in expected.items()
    )
    if peer.scale == 1:
        figures[f"weights after {STEPS} steps"] = steps_apart(peer)
    return {**figures, "logits in float32": difference(*both_logits(single))}


def pair_rows() -> tuple[Tensor, ...]:
    sources, targets = (
        rows(lengths, vocab_size=SHAPE["vocab_size"], seed=seed)
        for seed, lengths in enumerate(LENGTHS)
    )
    return *sources, *targets


@torch.no_grad()
def both_logits(peer: Peer) -> tuple[Tensor, Tensor]:
    source, lengths, target, target_lengths = pair_rows()
    is_real = ~filling(target, target_lengths)
    ours = peer.ours()(source, target, source_lengths=lengths)
    return ours[is_real], peer.logits(source, lengths, target, target_lengths)[is_real]


def gradients(peer: Peer, ours: Any) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The losses, and the gradients of either by their names."""
    source, lengths, target, target_lengths = pair_rows()
    logits = ours(source, target, source_lengths=lengths)
    theirs = peer.logits(source, lengths, target, target_lengths)
    losses = [loss_of(one, target, target_lengths) for one in (logits, theirs)]
    ours.zero_grad()
    peer.model.zero_grad()
    for loss in losses:
        loss.backward()
    found = peer.to_theirs({name: p.grad for name, p in ours.named_parameters()})
    expected = {name: p.grad for name, p in peer.trained().items()}
    return [loss.detach() for loss in losses], found, expected


def steps_apart(peer: Peer) -> float:
    """The largest difference of a weight after steps of AdamW."""
    ours = peer.ours()
    # Positions that are a table of theirs are none that learn.
    learning = [p for name, p in ours.named_parameters() if "position_embedding" not in name]
    optimizers = [
        torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4)
        for parameters in (learning, peer.trained().values())
    ]
    for _ in range(STEPS):
        gradients(peer, ours)
        for optimizer in optimizers:
            optimizer.step()
    found = peer.to_theirs(dict(ours.named_parameters()))
    return max(difference(found[name], p.detach()) for name, p in peer.trained().items())


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()
