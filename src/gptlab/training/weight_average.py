"""An average of the weights over the steps of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gptlab.errors import CheckpointError
from gptlab.training.dtensors import local


class WeightAverage:
    """An exponential moving average of a model's trained parameters, sharded as they are.

    It begins with the weights that the model has now. After n steps it moves by 1 - d towards the
    new weights, with d = min(decay, (1 + n) / (10 + n)), so that the initial weights are soon
    forgotten. TensorFlow does the same,
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.

    Args:
        model: The model that trains.
        decay: How much of the average stays in a step, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps, those from before a resume included."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            local(self._averages.values()), local(self._parameters.values()), 1 - decay
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averaged weights; afterwards its own, bit for bit."""
        own = [part.detach().clone() for part in local(self._parameters.values())]
        self._put(local(self._averages.values()))
        try:
            yield
        finally:
            self._put(own)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights by the names of the parameters: not copies."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take `tensors`, named and shaped (and sharded) as those of `tensors()`, as the average.

        Raises:
            CheckpointError: They are of another model.
        """
        expected = {name: average.shape for name, average in self._averages.items()}
        given = {name: tensor.shape for name, tensor in tensors.items()}
        if given != expected:
            differing = {name for name, _ in expected.items() ^ given.items()}
            raise CheckpointError(
                f"the averaged weights are of another model: '{min(differing)}' does not fit; "
                "resume with the settings that the run was started with"
            )
        for name, average in self._averages.items():
            average.copy_(tensors[name])

    @torch.no_grad()
    def _put(self, weights: list[Tensor]) -> None:
        torch._foreach_copy_(local(self._parameters.values()), weights)
