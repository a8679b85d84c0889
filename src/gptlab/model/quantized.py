"""Weights in 8 or 4 bits, each group of them with a scale of its own.

A weight is an integer times the scale of its group: a row of the matrix, or so many neighbours in
a row. Activations stay as they are, and sums are taken in floating point (weight-only
quantization; Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, Frantar et al. 2022,
https://arxiv.org/abs/2210.17323).

Of 8 bits, an integer is in -127 to 127, and no weight moves by more than half a scale. Of 4 bits it
is in -8 to 7; the scale is the one of several that moves the group's weights least, and the root of
their mean square is at most 1/14 of the largest of them, beside rounding of the scale itself.

Letters: N outputs, K inputs, G groups of a row, M weights of a group.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import Quantization
from gptlab.errors import ConfigError
from gptlab.model.linear import computed, is_compiled, is_compiled_row, row_product

_SCALE_TYPES = {8: torch.float32, 4: torch.bfloat16}
# Largest weight of a group over the largest integer, for which 7 clips nothing.
_DIVISORS_OF_4_BITS = (7.0, 6.0, 6.5, 7.5, 8.0, 8.5, 9.0)


class QuantizedMatrix(nn.Module):
    """A matrix of integers with scales, where there was one of floating-point numbers.

    Args:
        shape: (N, K) of the matrix.
        quantization: Bits and groups.
        dtype: What it stands for.
        device: Where it is.
    """

    weight: Tensor
    """(N, K) int8; of 4 bits (N, K / 2) uint8, columns k and k + K/2 in lower and upper half."""
    scale: Tensor
    """(N, G), float32 for 8 bits and bfloat16 for 4."""
    like: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        quantization: Quantization,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "meta",
    ) -> None:
        super().__init__()
        N, K = shape
        self.shape, self.bits = shape, quantization.bits
        self.group_size = _group_size(K, quantization)
        integers = (N, K // 2) if self.bits == 4 else (N, K)
        integer = torch.uint8 if self.bits == 4 else torch.int8
        scale = torch.empty(N, K // self.group_size, dtype=_SCALE_TYPES[self.bits], device=device)
        self.register_buffer("weight", torch.empty(integers, dtype=integer, device=device))
        self.register_buffer("scale", scale)
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Half of a scale's digits would be another matrix.
        if self.scale.dtype != scale.dtype:
            self.scale = scale.to(self.weight.device)
        return self

    @torch.no_grad()
    def fill(self, matrix_NK: Tensor) -> Self:
        """Take the values nearest to `matrix_NK`."""
        groups_NGM = matrix_NK.float().reshape(len(matrix_NK), -1, self.group_size)
        integers_NGM, scale_NG = (_in_4_bits if self.bits == 4 else _in_8_bits)(groups_NGM)
        integers_NK = integers_NGM.flatten(1)
        if self.bits == 4:
            low, high = (integers_NK + 8).to(torch.uint8).chunk(2, dim=1)
            integers_NK = low | high << 4
        self.weight, self.scale = integers_NK.to(self.weight.dtype), scale_NG
        self.like = torch.empty(0, dtype=self.like.dtype, device=matrix_NK.device)
        return self

    def dense(self, rows: Tensor | None = None) -> Tensor:
        """The matrix (N, K) that it stands for, or `rows` (...) of it, (..., K)."""
        weight, scale = self.weight, self.scale
        if rows is not None:
            weight, scale = weight[rows], scale[rows]
        if self.bits == 4:
            weight = torch.cat((weight & 15, weight >> 4), dim=-1).to(torch.int8) - 8
        groups = weight.view(*scale.shape, self.group_size).float() * scale.unsqueeze(-1).float()
        return groups.flatten(-2).to(self.like.dtype)

    def product(self, x: Tensor) -> Tensor:
        """`x` (..., K) times the matrix, (..., N) in x's dtype."""
        has_row_scales = self.scale.shape[1] == 1 and self.bits == 8
        if not is_compiled_row(x):
            # Sums of so large integers may exceed the range of float16.
            if has_row_scales and x.dtype != torch.float16 and not is_compiled():
                return F.linear(x, self.weight.to(x.dtype)) * self.scale.flatten().to(x.dtype)
            return F.linear(x, self.dense().to(x.dtype))
        x_K = computed(x.reshape(-1).float())
        if has_row_scales:
            y_N = row_product(self.weight, x_K) * self.scale.flatten()
        else:
            y_N = self._grouped_product(x_K.view(-1, self.group_size))
        return y_N.to(x.dtype).view(*x.shape[:-1], -1)

    def _grouped_product(self, x_GM: Tensor) -> Tensor:
        weight_NGM = self.weight.view(len(self.weight), -1, self.group_size)
        scale_NG1 = self.scale.float().unsqueeze(-1)
        if self.bits == 8:
            return (weight_NGM.float() * x_GM * scale_NG1).sum(dim=(1, 2))
        low_NGM, high_NGM = (weight_NGM & 15).float() - 8, (weight_NGM >> 4).float() - 8
        (x_low, x_high), (scale_low, scale_high) = x_GM.chunk(2), scale_NG1.chunk(2, dim=1)
        return (low_NGM * x_low * scale_low + high_NGM * x_high * scale_high).sum(dim=(1, 2))


class QuantizedLinear(QuantizedMatrix):
    """A linear layer."""

    def __init__(self, *arguments: Any, bias: nn.Parameter | None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias


class QuantizedEmbedding(QuantizedMatrix):
    """A row of numbers for each id, which may also be the head of its model."""

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64 to (..., K)."""
        return self.dense(ids)

    def scores(self, x: Tensor) -> Tensor:
        """`x` (..., K) times the row of each id, (..., N)."""
        return self.product(x)


def _group_size(K: int, quantization: Quantization) -> int:
    """Weights of a group in rows of `K`.

    Raises:
        ConfigError: The rows do not divide into such groups.
    """
    # With 4 bits, the two halves of a row have groups of their own.
    whole = K // 2 if quantization.bits == 4 else K
    size = quantization.group_size
    if quantization.bits == 4 and K % 2:
        raise ConfigError(f"a matrix has {K} columns, but 4 bits need an even number; use 8 bits")
    if size is None:
        if quantization.bits == 8:
            return K
        return next(size for size in range(min(32, whole), 0, -1) if whole % size == 0)
    if whole % size:
        raise ConfigError(
            f"group_size is {size}, which does not divide the {whole} columns of "
            f"{'half ' if quantization.bits == 4 else ''}a matrix; choose one of their divisors"
        )
    return size


def _in_8_bits(groups_NGM: Tensor) -> tuple[Tensor, Tensor]:
    scale_NG = (groups_NGM.abs().amax(dim=-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    integers_NGM = (groups_NGM / scale_NG.unsqueeze(-1)).round().clamp(-127, 127)
    return integers_NGM.to(torch.int8), scale_NG


def _in_4_bits(groups_NGM: Tensor) -> tuple[Tensor, Tensor]:
    largest_NG = groups_NGM.abs().amax(dim=-1)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for divisor in _DIVISORS_OF_4_BITS:
        scale_NG = (largest_NG / divisor).clamp(min=torch.finfo(torch.float32).tiny)
        scale_NG = scale_NG.to(_SCALE_TYPES[4])
        exact_NG1 = scale_NG.float().unsqueeze(-1)
        integers_NGM = (groups_NGM / exact_NG1).round().clamp(-8, 7)
        error_NG = (integers_NGM * exact_NG1 - groups_NGM).square().sum(dim=-1)
        found = (integers_NGM.to(torch.int8), scale_NG, error_NG)
        if best is None:
            best = found
            continue
        is_better_NG = error_NG < best[2]
        best = (
            found[0].where(is_better_NG.unsqueeze(-1), best[0]),
            found[1].where(is_better_NG, best[1]),
            found[2].where(is_better_NG, best[2]),
        )
    assert best is not None
    return best[0], best[1]
