"""Losses. Each returns a sum and a weight, so that any split of a batch gives the same gradient.

    logits_BTV --> target_losses ---------+
                                          +--> a loss for each target --> sum, weight
    hidden_BTD --> chunked_target_losses -+

Letters: B batch, T length, D model width, V vocabulary, N targets in a row: those of all B x T.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class LossSums(NamedTuple):
    """What a batch adds to a loss: sums and their weights, float32 scalars on its device.

    Those of a batch are the sums of those of its rows, however it is split.
    """

    objective: Tensor
    """Weighted sum of what training minimises; the only one with a gradient."""
    weight: Tensor
    """Sum of these weights."""
    nats: Tensor
    """-log p of all targets that count, each once, whatever it weighs."""
    tokens: Tensor
    """Number of these targets."""
    key_nats: Tensor
    """`nats` of key tokens alone."""
    key_tokens: Tensor
    """Number of these."""


class TargetLosses(NamedTuple):
    """Losses of each target, float32."""

    minimised: Tensor
    """-log p, smoothed and with the z-loss where asked for."""
    nats: Tensor
    """-log p and nothing else, without a gradient."""


def cross_entropy(
    logits_BTV: Tensor,
    targets_BT: Tensor,
    *,
    weights_BT: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the targets' losses, and the sum of the weights, each a float32 scalar.

    Args:
        logits_BTV: In any precision; the logarithms are computed in float32.
        targets_BT: int64.
        weights_BT: How much each target counts; 1 if None.
        label_smoothing: See `target_losses`.
        z_loss: Likewise.
    """
    losses = target_losses(logits_BTV, targets_BT, label_smoothing=label_smoothing, z_loss=z_loss)
    return weighted_sum(losses.minimised, weights_BT)


def chunked_cross_entropy(
    hidden_BTD: Tensor,
    targets_BT: Tensor,
    *,
    logits: Callable[[Tensor], Tensor],
    chunk: int,
    weights_BT: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`cross_entropy` of `logits(hidden_BTD)`, of which only a chunk is held at a time.

    Args:
        hidden_BTD: What `logits` turns into logits, as `GPT.hidden_states` gives it.
        targets_BT: int64.
        logits: From (n, D) to (n, V), row by row and without random numbers, as `GPT.logits`.
        chunk: Largest number n of targets.
        weights_BT: How much each target counts; 1 if None.
        label_smoothing: See `target_losses`.
        z_loss: Likewise.
    """
    losses = chunked_target_losses(
        hidden_BTD,
        targets_BT,
        logits=logits,
        chunk=chunk,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )
    return weighted_sum(losses.minimised, weights_BT)


def weighted_sum(losses: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum of `losses`, each times its weight or 1, and the sum of the weights: float32 scalars."""
    if weights is None:
        return losses.sum(), losses.new_full((), losses.numel())
    weights = weights.float()
    return (losses * weights).sum(), weights.sum()


def target_losses(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> TargetLosses:
    """The loss of each target, shaped as they are.

    Args:
        logits: (..., V), in any precision; what follows is computed in float32.
        targets: (...) int64.
        label_smoothing: Share of a target's probability that all V tokens have in equal parts,
            the target among them (https://arxiv.org/abs/1512.00567, section 7).
        z_loss: Factor of the squared logarithm of the softmax's normaliser, which keeps logits
            from drifting (PaLM, https://arxiv.org/abs/2204.02311, section 5; ST-MoE,
            https://arxiv.org/abs/2202.08906, section 3.3).
    """
    terms = _terms(logits, targets, spread=label_smoothing > 0, log_z=z_loss > 0)
    return _combined(terms, targets, label_smoothing=label_smoothing, z_loss=z_loss)


def chunked_target_losses(
    hidden_BTD: Tensor,
    targets_BT: Tensor,
    *,
    logits: Callable[[Tensor], Tensor],
    chunk: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> TargetLosses:
    """`target_losses` of `logits(hidden_BTD)`, of which only `chunk` targets' are held at a time.

    The backward pass computes the logits of each chunk once more. Gradients made in the forward
    pass would spare it that, but before a loss is scaled they vanish in fp16.
    """
    wanted = {"spread": label_smoothing > 0, "log_z": z_loss > 0}

    def terms_of(hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return _terms(logits(hidden), targets, **wanted)

    # The gradients of a split are put together once, those of slices would be padded and added.
    hidden = torch.split(hidden_BTD.flatten(0, 1), chunk)
    targets = torch.split(targets_BT.flatten(), chunk)
    parts = [
        checkpoint(terms_of, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(hidden, targets, strict=True)
    ]
    terms = tuple(torch.cat(kind) for kind in zip(*parts, strict=True))
    return _combined(terms, targets_BT, label_smoothing=label_smoothing, z_loss=z_loss)


def _terms(logits: Tensor, targets: Tensor, *, spread: bool, log_z: bool) -> tuple[Tensor, ...]:
    """Of each target, (N,) float32: -log p; its mean over all tokens; log of the normaliser."""
    logits_NV = logits.float().flatten(0, -2)
    log_p_NV = F.log_softmax(logits_NV, dim=-1)
    terms = [F.nll_loss(log_p_NV, targets.flatten(), reduction="none")]
    if spread:
        terms.append(-log_p_NV.mean(dim=-1))
    if log_z:
        terms.append(torch.logsumexp(logits_NV, dim=-1))
    return tuple(terms)


# Apart from the terms: a compiler takes no factor that varies into what is computed twice.
def _combined(
    terms: tuple[Tensor, ...], targets: Tensor, *, label_smoothing: float, z_loss: float
) -> TargetLosses:
    minimised, *further = terms
    nats = minimised.detach()
    if label_smoothing:
        minimised = (1 - label_smoothing) * minimised + label_smoothing * further.pop(0)
    if z_loss:
        minimised = minimised + z_loss * further.pop(0).square()
    return TargetLosses(minimised.view(targets.shape), nats.view(targets.shape))
