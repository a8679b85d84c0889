"""How far a smaller model's weights are from those that it was made from."""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.model import GPT
from gptlab.model.quantized import QuantizedMatrix


@dataclass(frozen=True)
class WeightError:
    """Differences between the weights of two models."""

    root_mean_square: float
    """Of all differences together, as a share of that of the weights."""
    largest: float
    """The largest difference, as a share of the largest weight in its matrix."""
    where: str
    """Name of the matrix with the largest difference in this sense."""


def weight_error(model: GPT, of: GPT) -> WeightError:
    """How far the weights of `model`, quantized or in fewer digits, are from those of `of`."""
    squares, total, largest, where = 0.0, 0.0, 0.0, ""
    for name, parameter in of.named_parameters():
        weight = parameter.detach().double()
        difference = _weight(model, name).double() - weight
        squares += difference.square().sum().item()
        total += weight.square().sum().item()
        share = difference.abs().amax().item() / max(weight.abs().amax().item(), sys.float_info.min)
        if share > largest or not where:
            largest, where = share, name
    return WeightError((squares / total) ** 0.5 if total else 0.0, largest, where)


@torch.no_grad()
def _weight(model: GPT, name: str) -> Tensor:
    """What stands in `model` for the parameter of that name."""
    owner, _, kind = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, QuantizedMatrix) and kind == "weight":
        return module.dense()
    return model.get_parameter(name)
