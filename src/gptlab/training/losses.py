"""Losses. Each returns a sum and a weight, so that any split of a batch gives the same gradient.

Letters: B batch, T length, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from gptlab.errors import TrainingError


def cross_entropy(
    logits_BTV: Tensor, targets_BT: Tensor, *, weights_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted sum of -log p(target) in nats, and the sum of the weights, each a float32 scalar.

    Every target weighs 1 without `weights_BT`. The logarithms are computed in float32.
    """
    losses = F.cross_entropy(
        logits_BTV.float().flatten(0, 1),
        targets_BT.flatten(),
        reduction="sum" if weights_BT is None else "none",
    )
    if weights_BT is None:
        return losses, losses.new_tensor(targets_BT.numel())
    weights = weights_BT.flatten().float()
    return (losses * weights).sum(), weights.sum()


def diverged(loss: float, step: int) -> TrainingError:
    """The error for a loss that is not finite."""
    return TrainingError(
        f"the loss is {loss} at step {step}; start again with a lower --learning_rate, or with "
        "--precision fp32"
    )
