"""Which rule of the optimizers a parameter falls under: each matches exactly one row of a table."""

import re
from typing import Literal

from torch import nn

from gptlab.errors import ConfigError

Kind = Literal["hidden", "embedding", "vector"]
"""`hidden`: the matrices of the blocks, and their adapters; `embedding`: those with a row for each
token or position, the heads among them; `vector`: scales of norms and biases, which do not
decay."""

_TABLE: tuple[tuple[str, int, Kind], ...] = (
    (r"(.*\.)?blocks\.\d+\..*_proj\.weight", 2, "hidden"),
    (r"(.*\.)?blocks\.\d+\..*_proj\.lora_[ab]", 2, "hidden"),
    (r"(.*\.)?((position_)?embedding|lm_head)\.weight", 2, "embedding"),
    (r"(.*\.)?head\.(?!(.*[._])?norm\.weight).*\bweight", 2, "embedding"),
    (r"(.*[._])?norm\.weight", 1, "vector"),
    (r"(.*\.)?bias", 1, "vector"),
)


def group_parameters(model: nn.Module) -> dict[Kind, list[nn.Parameter]]:
    """The trainable parameters of `model` by kind, in its order.

    Raises:
        ConfigError: A parameter matches no row of the table, or several.
    """
    groups: dict[Kind, list[nn.Parameter]] = {"hidden": [], "embedding": [], "vector": []}
    for name, parameter in model.named_parameters():
        kind = _kind(name, parameter.ndim)
        if parameter.requires_grad:
            groups[kind].append(parameter)
    return groups


def _kind(name: str, dimensions: int) -> Kind:
    kinds = [
        kind
        for pattern, expected, kind in _TABLE
        if dimensions == expected and re.fullmatch(pattern, name)
    ]
    if len(kinds) != 1:
        raise ConfigError(
            f"parameter '{name}', of {dimensions} dimensions, matches {len(kinds)} optimizer "
            "rules, not 1; add its row to the table in training/optimizers/groups.py"
        )
    return kinds[0]
