"""How a model knows where a token stands.

Letters: B batch, T length, D model width, H heads, K head width, R coordinates of a head that turn,
P positions in a table.
"""

import math
from types import MappingProxyType

import torch
from torch import Tensor

from gptlab.config import ModelConfig

HIGH_TURNS = MappingProxyType({"llama3": 4.0, "yarn": 32.0})
"""rope_high_turns where it is not given."""


def frequencies(width: int, *, theta: float) -> Tensor:
    """How far each pair of coordinates turns from a position to the next, (K/2,) float64.

    Su et al. 2021, https://arxiv.org/abs/2104.09864: theta^(-2i/K) for pair i.
    """
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    return theta**-exponents


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """The frequencies of a model with rotary positions, stretched as it says, (R/2,) float64."""
    plain = frequencies(config.rotary_dim, theta=config.rope_theta)
    if config.rope_scaling is None:
        return plain
    stretched = plain / config.rope_factor
    if config.rope_scaling == "linear":
        return stretched
    kept = _kept_share(plain, config)
    return kept * plain + (1 - kept) * stretched


def rotary_scale(config: ModelConfig) -> float:
    """What rotated queries and keys are multiplied by (YaRN, section 3.4 of its paper)."""
    if config.rope_scaling != "yarn":
        return 1.0
    return config.rope_attention_factor or 0.1 * math.log(config.rope_factor) + 1.0


def _kept_share(plain: Tensor, config: ModelConfig) -> Tensor:
    """How much of each frequency stays: 1 where it turns often in the original context, else 0.

    In between, llama3 goes by the number of turns (Grattafiori et al. 2024,
    https://arxiv.org/abs/2407.21783) and yarn by the number of the pair (Peng et al. 2023,
    https://arxiv.org/abs/2309.00071, section 3.2).
    """
    assert config.rope_scaling is not None
    assert config.rope_original_len is not None
    low = config.rope_low_turns
    high = config.rope_high_turns or HIGH_TURNS[config.rope_scaling]
    turns = config.rope_original_len * plain / (2 * math.pi)
    if config.rope_scaling == "llama3":
        return ((turns - low) / (high - low)).clamp(0.0, 1.0)
    width, base = config.rotary_dim, 2 * math.log(config.rope_theta)
    first, last = (
        width * math.log(config.rope_original_len / (2 * math.pi * limit)) / base
        for limit in (high, low)
    )
    start, end = max(math.floor(first), 0), min(math.ceil(last), width - 1)
    places = torch.arange(width // 2, dtype=torch.float64)
    return 1 - ((places - start) / max(end - start, 0.001)).clamp(0.0, 1.0)


def rotary_table(length: int, turns: Tensor, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines at the first positions, each (P, R/2) float32.

    Args:
        length: How many positions, P.
        turns: (R/2,) float64, as `rotary_frequencies` gives them.
        scale: Factor of all of them.
    """
    angles = torch.outer(torch.arange(length, dtype=torch.float64), turns)
    return (angles.cos() * scale).float(), (angles.sin() * scale).float()


def rotate(x_BTHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` with each head's pairs turned; `cos` and `sin` are (T, R/2) or (B, T, R/2) float32.

    Half-split layout: coordinate i is paired with i + R/2, as in the Llama family. What is beyond
    the first R coordinates stays.
    """
    width = 2 * cos.shape[-1]
    if width < x_BTHK.shape[-1]:
        still = x_BTHK[..., width:]
        return torch.cat((rotate(x_BTHK[..., :width], cos, sin), still), dim=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    # The products with a float32 table are at least float32, whatever x is.
    first, second = x_BTHK.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_BTHK.dtype)


def sinusoidal_table(length: int, embed_dim: int) -> Tensor:
    """Fixed positions (P, D) float32: sines in the even columns, cosines in the odd ones.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.
    """
    cos, sin = rotary_table(length, frequencies(embed_dim, theta=10_000.0))
    return torch.stack((sin, cos), dim=-1).flatten(1)
