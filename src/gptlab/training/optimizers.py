"""Optimizers over a model's parameters."""

import torch
from torch import nn

from gptlab.config import OptimizerConfig
from gptlab.errors import ConfigError


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).

    Matrices decay; vectors (biases, the scales of norms) do not. The learning rate is set before
    every step by the schedule.

    Raises:
        ConfigError: A parameter is neither a matrix nor a vector.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.ndim not in (1, 2):
            raise ConfigError(f"parameter '{name}' has {parameter.ndim} dimensions: no decay rule")
    matrices = [p for p in parameters.values() if p.ndim == 2]
    vectors = [p for p in parameters.values() if p.ndim == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
