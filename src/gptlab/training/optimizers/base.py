"""What the optimizers written here share: the round over groups, and state beside a parameter."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor


class GroupedOptimizer(torch.optim.Optimizer):
    """An optimizer whose step changes one group after the other.

    Parameters without a gradient stay as they are. State is tensors of a parameter's own shape,
    sharded as it is.
    """

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step; the value of `closure`, called before it, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    @abstractmethod
    def _update(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Change `parameters` in place by their gradients and the settings of their group."""

    def _state_of(self, parameters: Sequence[Tensor], name: str) -> list[Tensor]:
        """The tensor `name` kept beside each of the parameters, zeros in the beginning."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of `parameters`, which all have one."""
    return [p.grad for p in parameters if p.grad is not None]
