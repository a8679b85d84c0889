"""Stochastic gradient descent with Nesterov's momentum."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gptlab.training.dtensors import local
from gptlab.training.optimizers.base import GroupedOptimizer, gradients


class SGD(GroupedOptimizer):
    """SGD with Nesterov momentum and decoupled weight decay.

    The step is that of `torch.optim.SGD` with `nesterov=True`. The decay is not: there it is added
    to the gradient and goes through the momentum. Here, as in AdamW, each weight loses the share
    learning rate x decay (SGDW, Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: How much of the momentum is kept; 0 for none.
        weight_decay: Factor of the decay, which is in proportion to the learning rate.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _update(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        weights, grads = local(parameters), local(gradients(parameters))
        momenta = local(self._state_of(parameters, "momentum_buffer"))
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, grads)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, grads, alpha=-group["lr"])
        torch._foreach_add_(weights, momenta, alpha=-group["lr"] * group["momentum"])
