"""What training a head minimises: from a batch of labelled texts to sums.

    batch --> model.hidden_states --> head --> outputs --> a loss for each target --> sums

Letters: B batch, T length.
"""

import torch
from torch import Tensor

from gptlab.errors import ConfigError
from gptlab.model.head import Head
from gptlab.model.stack import Stack
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import LossSums, weighted_sum
from gptlab.training.objective import Objective
from gptlab.training.precision import Arithmetic


class HeadObjective(Objective):
    """A model with a head, and the head's loss.

    A row of a batch adds the same to each sum whatever rows are beside it.

    Args:
        model: Its head is on it; on the device of `arithmetic`.
        arithmetic: In which precision the model computes.
    """

    def __init__(self, model: Stack, *, arithmetic: Arithmetic) -> None:
        super().__init__(model, arithmetic=arithmetic)
        self.model: Stack

    @property
    def head(self) -> Head:
        """What stands on the model."""
        assert self.model.head is not None
        return self.model.head

    def outputs(self, batch: DeviceBatch) -> Tensor:
        """What the head gives for `batch`, (B, ...), or (B, 2, ...) of pairs."""
        assert batch.lengths is not None
        tokens, lengths = batch.inputs.flatten(0, -2), batch.lengths.flatten()
        with self.arithmetic.autocast():
            outputs: Tensor = self.head(self.model.read_texts(tokens, lengths), lengths)
        return outputs.reshape(*batch.lengths.shape, *outputs.shape[1:])

    def sums_of(self, outputs: Tensor, targets: Tensor) -> LossSums:
        """The sums of outputs; nothing of them is about tokens of a text."""
        losses, weights = self.head.loss(outputs, targets), self.head.weights(targets)
        if losses.shape != weights.shape:
            raise ConfigError(
                f"the loss of {type(self.head).__name__} is {tuple(losses.shape)}, but its "
                f"targets weigh {tuple(weights.shape)}; give a loss for each"
            )
        objective, weight = weighted_sum(losses.float(), weights)
        nothing = torch.zeros_like(weight)
        return LossSums(objective, weight, objective.detach(), weight, nothing, nothing)

    def forward(self, batch: DeviceBatch) -> LossSums:
        """The sums of `batch`."""
        return self.sums_of(self.outputs(batch), batch.targets)

    def weight(self, batch: DeviceBatch) -> Tensor:
        """The `weight` that `forward` returns for `batch`, which its targets alone decide."""
        return self.head.weights(batch.targets).sum()
