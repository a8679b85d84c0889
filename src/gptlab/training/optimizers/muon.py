"""Muon: steps along the nearest orthogonal matrix to a matrix's momentum.

Letters: N matrices, R rows, C columns.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gptlab.training.dtensors import local, own_part, whole
from gptlab.training.optimizers.base import GroupedOptimizer, gradients

# Jordan's quintic, which brings singular values near 1 in few steps: into about 0.7 to 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPS = 1e-7
# The usual size of a step of AdamW, in learning rates, root mean square.
_ADAMW_RMS = 0.2


class Muon(GroupedOptimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices (R, C).

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. A step is scaled to the size of
    one of AdamW, as Moonlight does (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that
    both take the same learning rate and decay.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: How much of the momentum is kept.
        weight_decay: Factor of the decay, which is in proportion to the learning rate.
        products: Type of the products in which momenta are made orthogonal.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        products: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._products = products

    def _update(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        grads = gradients(parameters)
        momenta = self._state_of(parameters, "momentum_buffer")
        torch._foreach_lerp_(local(momenta), local(grads), 1 - group["momentum"])
        torch._foreach_mul_(local(parameters), 1 - group["lr"] * group["weight_decay"])
        for same in _by_shape(parameters):
            updates = [grads[i].lerp(momenta[i], group["momentum"]) for i in same]
            update_NRC = torch.stack([whole(update) for update in updates])
            update_NRC = orthogonalise(update_NRC, products=self._products)
            scale = _ADAMW_RMS * math.sqrt(max(update_NRC.shape[1:]))
            for i, update_RC in zip(same, update_NRC, strict=True):
                part = own_part(update_RC, like=parameters[i])
                local([parameters[i]])[0].add_(part, alpha=-group["lr"] * scale)


def orthogonalise(matrices_NRC: Tensor, *, products: torch.dtype) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1, all (N, R, C).

    Five Newton-Schulz steps on each, in the type `products`, in which the result comes. Of zeros
    it makes zeros.
    """
    is_tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x_NRC = matrices_NRC.mT if is_tall else matrices_NRC
    norm_N11 = torch.linalg.vector_norm(x_NRC, dim=(1, 2), keepdim=True)
    x_NRC = (x_NRC / norm_N11.clamp(min=_EPS)).to(products)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram_NRR = x_NRC @ x_NRC.mT
        factor_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, factor_NRR, x_NRC, beta=a)
    return x_NRC.mT if is_tall else x_NRC


def _by_shape(matrices: Sequence[Tensor]) -> list[list[int]]:
    """Indices of matrices of one shape, which are computed at once."""
    indices: dict[torch.Size, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        indices[matrix.shape].append(index)
    return list(indices.values())
