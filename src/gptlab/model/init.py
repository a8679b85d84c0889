"""Initial weights: one table, in which every parameter matches exactly one row."""

import math
import re

import torch
from torch import nn

from gptlab.config import ModelConfig
from gptlab.errors import ConfigError

# Projections that write to the residual stream.
_WRITES = r"blocks\..*\.(o|down)_proj\.weight"


def initialise(
    model: nn.Module, config: ModelConfig, *, seed: int | None = None, only: str = ".*"
) -> None:
    """Fill the parameters of `model` in place, by name; those alone whose name matches `only`.

    GPT-2's scheme (Radford et al. 2019): normal with deviation 0.02, and projections that write
    to the residual stream divided by the square root of their number, or zero where the settings
    say so (Zhang et al. 2019, https://arxiv.org/abs/1901.09321). The same seed gives the
    same weights on every device; without one, the draw comes from torch's global generator.

    Raises:
        ConfigError: A parameter matches no row of the table, or several.
    """
    writes = sum(re.fullmatch(_WRITES, name) is not None for name, _ in model.named_parameters())
    residual: float | str = 0.02 / math.sqrt(max(1, writes))
    if config.residual_init == "zero":
        residual = "zeros"
    table: dict[str, float | str] = {
        r"(position_)?embedding\.weight": 0.02,
        r"lm_head\.weight": 0.02,
        r"blocks\..*\.(qkv|q|kv|up|gate)_proj\.weight": 0.02,
        _WRITES: residual,
        r"head\.(?!(.*[._])?norm\.weight).*\bweight": 0.02,
        r"(.*[._])?norm\.weight": "ones",
        r".*\.bias": "zeros",
        r".*_proj\.lora_a": "fan_in",
        r".*_proj\.lora_b": "zeros",
    }
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not re.fullmatch(only, name):
            continue
        rows = [fill for pattern, fill in table.items() if re.fullmatch(pattern, name)]
        if len(rows) != 1:
            raise ConfigError(f"parameter '{name}' matches {len(rows)} initialisation rules, not 1")
        _fill(parameter, rows[0], generator)


@torch.no_grad()
def _fill(parameter: nn.Parameter, fill: float | str, generator: torch.Generator | None) -> None:
    if parameter.is_meta:
        # There is no memory to fill, and torch would load its compiler for nothing.
        return
    if fill == "ones":
        parameter.fill_(1.0)
    elif fill == "zeros":
        parameter.zero_()
    elif fill == "fan_in":
        # As PyTorch's own layers: deviation 1 / sqrt(3 K) for K inputs.
        _fill(parameter, 1 / math.sqrt(3 * parameter.shape[1]), generator)
    else:
        noise = torch.randn(parameter.shape, generator=generator) * float(fill)
        parameter.copy_(noise)
