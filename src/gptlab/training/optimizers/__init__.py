"""Optimizers over a model's parameters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gptlab.config import OptimizerConfig
from gptlab.training.optimizers.groups import group_parameters
from gptlab.training.optimizers.lion import Lion
from gptlab.training.optimizers.muon import Muon
from gptlab.training.optimizers.sgd import SGD

__all__ = ["SGD", "Lion", "Muon", "make_optimizers", "set_learning_rate"]


def make_optimizers(
    model: nn.Module, config: OptimizerConfig, *, products: torch.dtype
) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers that `config` names, which together move every trainable parameter once.

    Matrices decay; vectors (biases, the scales of norms) do not. The schedule sets the learning
    rate before each step.

    Args:
        model: Its parameters may be sharded over ranks.
        config: Which optimizer, and its settings.
        products: Type of the matrix products in Muon.

    Raises:
        ConfigError: A parameter does not match exactly one rule of grouping.
    """
    groups = group_parameters(model)
    decay = config.weight_decay
    hidden = [{"params": groups["hidden"], "weight_decay": decay}]
    others = [
        {"params": groups["embedding"], "weight_decay": decay},
        {"params": groups["vector"], "weight_decay": 0.0},
    ]
    betas, rate = (config.beta1, config.beta2), config.learning_rate
    if config.optimizer == "muon":
        muon = Muon(hidden, lr=rate, momentum=config.momentum, products=products)
        return muon, _adamw(others, config)
    if config.optimizer == "sgd":
        return (SGD(hidden + others, lr=rate, momentum=config.momentum),)
    if config.optimizer == "lion":
        return (Lion(hidden + others, lr=rate, betas=betas),)
    return (_adamw(hidden + others, config),)


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], learning_rate: float) -> None:
    """Set the rate of the next step, times `lr_scale` in groups that have one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def _adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."""
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )
