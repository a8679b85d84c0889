"""How others keep a matrix that is one of ours: the same numbers in another order.

Letters: D model width, H heads, K head width, N outputs, M inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.config import ModelConfig


@dataclass(frozen=True)
class Form:
    """A rearrangement, both ways. It works on tensors without memory too, which tells shapes."""

    to_ours: Callable[[Sequence[Tensor], ModelConfig], Tensor]
    """One tensor of ours from theirs, in the order in which a family names them."""
    to_theirs: Callable[[Tensor, ModelConfig], list[Tensor]]
    """Theirs from one of ours; views of it where they can be."""


def _transposed(tensors: Sequence[Tensor], _config: ModelConfig) -> Tensor:
    return tensors[0].t().contiguous()


def _stacked(tensors: Sequence[Tensor], _config: ModelConfig) -> Tensor:
    return torch.cat(list(tensors))


def _swapped(tensor: Tensor, parts: tuple[int, int]) -> Tensor:
    """Rows that come in `parts`, and those in parts again, with the two levels swapped."""
    rows = tensor.reshape(*parts, -1, *tensor.shape[1:])
    return rows.transpose(0, 1).reshape(tensor.shape)


def _heads_to_parts(tensors: Sequence[Tensor], config: ModelConfig) -> Tensor:
    """(H 3 K, ...), each head's q, k and v together, to (3 H K, ...)."""
    return _swapped(tensors[0], (config.n_heads, 3))


def _parts_to_heads(tensor: Tensor, config: ModelConfig) -> list[Tensor]:
    """(3 H K, ...) to (H 3 K, ...)."""
    return [_swapped(tensor, (3, config.n_heads))]


def _query_key_value(tensor: Tensor, config: ModelConfig) -> list[Tensor]:
    heads = (config.n_heads, config.kv_heads, config.kv_heads)
    return list(torch.split(tensor, [number * config.head_dim for number in heads]))


SAME = Form(lambda tensors, _config: tensors[0], lambda tensor, _config: [tensor])
"""As it is."""

TRANSPOSED = Form(_transposed, lambda tensor, _config: [tensor.t()])
"""A matrix (M, N) where ours is (N, M); a bias stays."""

QUERY_KEY_VALUE = Form(_stacked, _query_key_value)
"""Three matrices, of queries, keys and values, that are one of ours."""

BY_HEAD = Form(_heads_to_parts, _parts_to_heads)
"""One matrix in which the queries, keys and values of each head lie together."""
