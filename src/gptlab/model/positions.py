"""How a model knows where a token stands.

Letters: B batch, T length, D model width, H heads, K head width, P positions in a table.
"""

import torch
from torch import Tensor


def rotary_table(length: int, head_dim: int, *, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, each (P, K/2) float32.

    Su et al. 2021, https://arxiv.org/abs/2104.09864. Pair i turns by position / theta^(2i/K).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float64), theta**-exponents)
    return angles.cos().float(), angles.sin().float()


def rotate(x_BTHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` with each head's pairs turned; `cos` and `sin` are (T, K/2) or (B, T, K/2) float32.

    Half-split layout: coordinate i is paired with i + K/2, as in the Llama family.
    """
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    # The products with a float32 table are at least float32, whatever x is.
    first, second = x_BTHK.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_BTHK.dtype)


def sinusoidal_table(length: int, embed_dim: int) -> Tensor:
    """Fixed positions (P, D) float32: sines in the even columns, cosines in the odd ones.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.
    """
    cos, sin = rotary_table(length, embed_dim, theta=10_000.0)
    return torch.stack((sin, cos), dim=-1).flatten(1)
