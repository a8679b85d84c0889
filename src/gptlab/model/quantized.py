"""Weights in 8 or 4 bits, each group of them with a scale of its own.

A weight is an integer times the scale of its group: a row of the matrix, or so many neighbours in
a row. Activations stay as they are, and sums are taken in floating point (weight-only
quantization; Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, Frantar et al. 2022,
https://arxiv.org/abs/2210.17323).

Of 8 bits, an integer is in -127 to 127 and a scale is 1/127 of the largest weight of its group: no
weight moves by more than half a scale, beside rounding of float32. Of 4 bits an integer is in -8 to
7, and a scale is the one of several that moves the weights of its group least: the root of their
mean squared moves is at most 1/14 of the largest weight, and 1/256 more for a scale is rounded to
bfloat16. Where the model's numbers have 16 bits, the weights are rounded to these besides.

Letters: N outputs, K inputs, G groups of a row, M weights of a group.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptlab.config import Quantization
from gptlab.errors import ConfigError
from gptlab.model.linear import computed, is_compiled, is_compiled_row, row_product

_SCALE_TYPES = {8: torch.float32, 4: torch.bfloat16}
# What integer the largest weight of a group would be: of 7, none is clipped, and the bound holds.
_LARGEST_OF_4_BITS = (7.0, 6.0, 6.5, 7.5, 8.0, 8.5, 9.0)
_LEAST_GROUP, _USUAL_GROUP = 16, 32


class QuantizedMatrix(nn.Module):
    """A matrix of integers with scales, where there was one of floating-point numbers.

    It has no memory before it is filled, or its model is emptied onto a device.

    Args:
        shape: (N, K) of the matrix.
        quantization: Bits and groups.
        dtype: Of the numbers that it stands for.

    Raises:
        ConfigError: Its rows do not divide into groups of that size.
    """

    weight: Tensor
    """(N, K) int8; of 4 bits (N, K / 2) uint8, columns k and k + K/2 in lower and upper half."""
    scale: Tensor
    """(N, G), float32 for 8 bits and bfloat16 for 4, whatever the model's numbers are."""
    like: Tensor
    """Empty, of the type of the numbers that the matrix stands for."""

    def __init__(
        self, shape: tuple[int, int], quantization: Quantization, *, dtype: torch.dtype
    ) -> None:
        super().__init__()
        N, K = shape
        self.shape, self.bits = shape, quantization.bits
        self.group_size = _group_size(K, quantization)
        if self.bits == 4:
            weight = torch.empty(N, K // 2, dtype=torch.uint8, device="meta")
        else:
            weight = torch.empty(N, K, dtype=torch.int8, device="meta")
        groups = K // self.group_size
        scale = torch.empty(N, groups, dtype=_SCALE_TYPES[self.bits], device="meta")
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("like", torch.empty(0, dtype=dtype, device="meta"), persistent=False)

    def extra_repr(self) -> str:
        """What it is."""
        return f"{self.shape}, bits={self.bits}, group_size={self.group_size}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Half of a scale's digits would be another matrix.
        if self.scale.dtype != scale.dtype:
            self.scale = scale.to(self.weight.device)
        return self

    @torch.no_grad()
    def fill(self, matrix_NK: Tensor) -> Self:
        """Stand for `matrix_NK` of finite numbers, on its device."""
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
        """The matrix (N, K) that it stands for, or the `rows` (...) int64 of it, (..., K)."""
        weight, scale = self.weight, self.scale
        if rows is not None:
            weight, scale = weight[rows], scale[rows]
        if self.bits == 4:
            weight = torch.cat((weight & 15, weight >> 4), dim=-1).to(torch.int8) - 8
        groups = weight.view(*scale.shape, self.group_size).float() * scale.unsqueeze(-1).float()
        return groups.flatten(-2).to(self.like.dtype)

    def product(self, x: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """`x` (..., K) times the matrix, (..., N) in x's dtype."""
        has_row_scales = self.scale.shape[1] == 1 and self.bits == 8
        if has_row_scales and x.requires_grad and torch.is_grad_enabled():
            return self._frozen_product(x, bias_N)
        if not is_compiled_row(x):
            # Sums of so large integers may exceed the range of float16.
            if has_row_scales and x.dtype != torch.float16 and not is_compiled():
                y = F.linear(x, self.weight.to(x.dtype))
                y = y.to(torch.promote_types(x.dtype, torch.float32)) * self.scale.flatten()
                return (y if bias_N is None else y + bias_N).to(x.dtype)
            return F.linear(x, self.dense().to(x.dtype), bias_N)
        x_K = computed(x.reshape(-1).float())
        if has_row_scales:
            y_N = row_product(self.weight, x_K) * self.scale.flatten()
        else:
            y_N = self._grouped_product(x_K.view(-1, self.group_size))
        if bias_N is not None:
            y_N = y_N + bias_N.float()
        return y_N.to(x.dtype).view(*x.shape[:-1], -1)

    def _frozen_product(self, x: Tensor, bias_N: Tensor | None) -> Tensor:
        """`product` where a gradient goes through it to x, and none to the matrix."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        # On the way back, autocast is over: types are settled here.
        with torch.autocast(kind, enabled=False):
            y: Tensor = _FrozenProduct.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
            return y if bias_N is None else y + bias_N.to(y.dtype)

    def _grouped_product(self, x_GM: Tensor) -> Tensor:
        weight_NGM = self.weight.view(len(self.weight), -1, self.group_size)
        scale_NG1 = self.scale.float().unsqueeze(-1)
        if self.bits == 8:
            return (weight_NGM.float() * x_GM * scale_NG1).sum(dim=(1, 2))
        low_NGM, high_NGM = (weight_NGM & 15).float() - 8, (weight_NGM >> 4).float() - 8
        (x_low, x_high), (scale_low, scale_high) = x_GM.chunk(2), scale_NG1.chunk(2, dim=1)
        return (low_NGM * x_low * scale_low + high_NGM * x_high * scale_high).sum(dim=(1, 2))


class _FrozenProduct(torch.autograd.Function):
    """A product whose way back makes the matrix anew from its integers, instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor, scale_N1: Tensor) -> Tensor:
        ctx.save_for_backward(weight_NK, scale_N1)
        return F.linear(x, (weight_NK.float() * scale_N1).to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight_NK, scale_N1 = ctx.saved_tensors
        return gradient @ (weight_NK.float() * scale_N1).to(gradient.dtype), None, None


class QuantizedLinear(QuantizedMatrix):
    """A linear layer."""

    def __init__(
        self,
        shape: tuple[int, int],
        quantization: Quantization,
        *,
        dtype: torch.dtype,
        bias: nn.Parameter | None,
    ) -> None:
        super().__init__(shape, quantization, dtype=dtype)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        return self.product(x, self.bias)


class QuantizedEmbedding(QuantizedMatrix):
    """A row of numbers for each id, which may also be the head of its model."""

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64 to (..., K)."""
        return self.dense(ids)

    def scores(self, x: Tensor) -> Tensor:
        """`x` (..., K) times the row of each id, (..., N)."""
        return self.product(x)


def _group_size(K: int, quantization: Quantization) -> int:
    """Weights of a group in rows of `K`."""
    size = quantization.group_size
    if quantization.bits == 8:
        whole, name = K, "columns"
    elif K % 2:
        raise ConfigError(f"a matrix has {K} columns, but 4 bits need an even number; use 8 bits")
    else:
        # The two halves of a row, which share bytes, have groups of their own.
        whole, name = K // 2, "columns of half"
    if size is None:
        return K if quantization.bits == 8 else _usual_group_size(whole)
    if whole % size:
        raise ConfigError(
            f"group_size is {size}, which does not divide the {whole} {name} a matrix; choose one "
            "of their divisors"
        )
    return size


def _usual_group_size(whole: int) -> int:
    """The divisor of `whole` that is next to the usual size; scales of small groups take room."""
    sizes = range(min(_LEAST_GROUP, whole), whole + 1)
    return min((n for n in sizes if whole % n == 0), key=lambda size: abs(size - _USUAL_GROUP))


def _in_8_bits(groups_NGM: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (N, G, M) int8, and scales (N, G)."""
    scale_NG = _scale(groups_NGM.abs().amax(dim=-1) / 127, bits=8)
    integers_NGM = (groups_NGM / scale_NG.unsqueeze(-1)).round().clamp(-127, 127)
    return integers_NGM.to(torch.int8), scale_NG


def _in_4_bits(groups_NGM: Tensor) -> tuple[Tensor, Tensor]:
    """As `_in_8_bits`, by the scale with the least squared error."""
    largest_NG = groups_NGM.abs().amax(dim=-1)
    scales = [_scale(largest_NG / integer, bits=4) for integer in _LARGEST_OF_4_BITS]
    # In units of the largest weight, whose square might be too large a number or too small.
    unit_NG1 = largest_NG.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    errors = []
    for scale_NG in scales:
        exact_NG1 = scale_NG.float().unsqueeze(-1)
        moves_NGM = _nearest(groups_NGM, exact_NG1) * exact_NG1 - groups_NGM
        errors.append((moves_NGM / unit_NG1).square().sum(dim=-1))
    best_1NG = torch.stack(errors).argmin(dim=0, keepdim=True)
    scale_NG = torch.stack(scales).gather(0, best_1NG)[0]
    return _nearest(groups_NGM, scale_NG.float().unsqueeze(-1)).to(torch.int8), scale_NG


def _nearest(groups_NGM: Tensor, scale_NG1: Tensor) -> Tensor:
    return (groups_NGM / scale_NG1).round().clamp(-8, 7)


def _scale(wanted_NG: Tensor, *, bits: int) -> Tensor:
    """`wanted_NG` as a scale is kept; of a group of zeros it is not zero, for it divides."""
    return wanted_NG.clamp(min=torch.finfo(torch.float32).tiny).to(_SCALE_TYPES[bits])
