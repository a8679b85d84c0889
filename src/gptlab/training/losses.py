"""Losses. Each returns a sum and a weight, so that any split of a batch gives the same gradient.

Letters: B batch, T length, V vocabulary.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from gptlab.errors import TrainingError
from gptlab.training.loader import DeviceBatch
from gptlab.training.precision import Arithmetic

Forward = Callable[..., Tensor]
"""A model, or what a compiler made of it: called as `GPT.forward`."""


def batch_loss(
    forward: Forward, batch: DeviceBatch, *, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """What training minimises and evaluation measures: the loss of a batch as a sum, its weight.

    Both are float32 scalars on the batch's device.
    """
    with arithmetic.autocast():
        logits_BTV = forward(batch.inputs, documents=batch.documents, positions=batch.positions)
    return cross_entropy(logits_BTV, batch.targets, weights_BT=batch.weights)


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
