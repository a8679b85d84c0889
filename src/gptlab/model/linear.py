"""Matrix products with weights, in the form that the work at hand reads fastest.

Generating text multiplies one row at a time: each weight is used once, so that the memory decides.
Matrix routines read it at half its speed then, while a plain product and sum, compiled, reads it at
nearly all of it. Many rows are a matrix product, for which those routines are made.

Letters: N outputs, K inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STREAMS = 4


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """`x` (..., K) times the weights, (..., N) in x's dtype; sums are taken in float32."""
    if not is_compiled_row(x):
        return F.linear(x, weight_NK, bias_N)
    y_N = row_product(weight_NK, computed(x.reshape(-1).float()))
    if bias_N is not None:
        y_N = y_N + bias_N.float()
    return y_N.to(x.dtype).view(*x.shape[:-1], -1)


def is_compiled() -> bool:
    """Whether this is a compiled pass that learns nothing."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled()


def is_compiled_row(x: Tensor) -> bool:
    """Whether `x` (..., K) is a single row in a compiled pass that learns nothing."""
    return is_compiled() and x.numel() == x.shape[-1]


def row_product(weight_NK: Tensor, x_K: Tensor) -> Tensor:
    """Numbers of any type times a float32 row, (N,) float32, for a compiler to make loops of."""
    # The smaller the numbers, the more a CPU has to do for each line of memory, and a loop that
    # reads several places at once keeps it busy meanwhile.
    is_slow = weight_NK.itemsize == 1 and weight_NK.device.type == "cpu"
    size = max(1, len(weight_NK) // (_STREAMS if is_slow else 1))
    return torch.cat([(part.float() * x_K).sum(dim=-1) for part in torch.split(weight_NK, size)])


def computed(x: Tensor) -> Tensor:
    """`x`, which a compiler is kept from computing again wherever it is used."""
    # Strides are of what lies in memory.
    return x.as_strided(x.shape, x.stride())


class Linear(nn.Linear):
    """A linear layer by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """A row of numbers for each id, which may also be the head of its model."""

    def scores(self, x: Tensor) -> Tensor:
        """`x` (..., D) times the row of each id, (..., V)."""
        return linear(x, self.weight)
