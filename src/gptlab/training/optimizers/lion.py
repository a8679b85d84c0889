"""Lion: steps of one size, in the direction of a momentum's signs."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gptlab.training.dtensors import local
from gptlab.training.optimizers.base import GroupedOptimizer, gradients


class Lion(GroupedOptimizer):
    """Lion with decoupled weight decay (Chen et al. 2023, https://arxiv.org/abs/2302.06675).

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, which is how far each weight moves in a step.
        betas: How much of the momentum counts in a step, and how much of it is kept afterwards.
        weight_decay: Factor of the decay, which is in proportion to the learning rate.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def _update(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        weights, grads = local(parameters), local(gradients(parameters))
        momenta = local(self._state_of(parameters, "exp_avg"))
        directions = torch._foreach_lerp(grads, momenta, beta1)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, directions, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, grads, 1 - beta2)
