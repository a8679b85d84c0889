"""Muon against exact singular vectors, a slow float64 form, and torch's own."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptlab.training.optimizers import Muon
from gptlab.training.optimizers.muon import orthogonalise

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4), (1, 3), (4, 6), (6, 4)]


def matrices(seed: int = 0) -> nn.ParameterList:
    generator = torch.Generator().manual_seed(seed)
    return nn.ParameterList([torch.randn(shape, generator=generator) for shape in SHAPES])


def set_gradients(parameters: nn.ParameterList, step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def slow_orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """The quintic applied to each singular value: no products of matrices."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm().clamp(min=1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def muon_by_hand(value, gradients, *, rate, momentum, decay):
    value, kept = value.double(), torch.zeros(value.shape, dtype=torch.float64)
    for gradient in gradients:
        gradient = gradient.double()
        kept = momentum * kept + (1 - momentum) * gradient
        update = slow_orthogonalise(momentum * kept + (1 - momentum) * gradient)
        update = 0.2 * math.sqrt(max(value.shape)) * update
        value = value - rate * (update + decay * value)
    return value


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 4),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    scale=st.sampled_from([1e-12, 1e-4, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_orthogonalising_is_the_polynomial_of_the_singular_values(
    count, rows, columns, scale, seed
):
    generator = torch.Generator().manual_seed(seed)
    given_NRC = scale * torch.randn(count, rows, columns, generator=generator).double()
    result_NRC = orthogonalise(given_NRC, products=torch.float64)
    assert result_NRC.shape == given_NRC.shape
    for matrix, result in zip(given_NRC, result_NRC, strict=True):
        torch.testing.assert_close(result, slow_orthogonalise(matrix), rtol=1e-6, atol=1e-8)


def test_singular_values_come_near_one_in_16_bits_too():
    generator = torch.Generator().manual_seed(0)
    given_NRC = torch.randn(3, 64, 256, generator=generator)
    result_NRC = orthogonalise(given_NRC, products=torch.bfloat16)
    assert result_NRC.dtype == torch.bfloat16
    values = torch.linalg.svdvals(result_NRC.float())
    assert 0.6 < values.min() <= values.max() < 1.3


def test_zeros_stay_zeros():
    zeros = torch.zeros(2, 3, 5)
    assert torch.equal(orthogonalise(zeros, products=torch.float32), zeros)


def test_a_matrix_of_a_batch_is_the_one_alone():
    generator = torch.Generator().manual_seed(0)
    given_NRC = torch.randn(5, 7, 3, generator=generator)
    together = orthogonalise(given_NRC, products=torch.float32)
    for index in range(5):
        alone = orthogonalise(given_NRC[index : index + 1], products=torch.float32)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


def test_ten_steps_equal_those_by_hand():
    parameters = matrices()
    start = [p.detach().clone() for p in parameters]
    muon = Muon(
        parameters.parameters(), lr=0.05, momentum=0.8, weight_decay=0.2, products=torch.float32
    )
    gradients = []
    for step in range(10):
        set_gradients(parameters, step)
        gradients.append([p.grad for p in parameters])
        muon.step()
    for index, parameter in enumerate(parameters):
        own = [each[index] for each in gradients]
        expected = muon_by_hand(start[index], own, rate=0.05, momentum=0.8, decay=0.2)
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("products", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
def test_ten_steps_equal_those_of_torch(products, tolerance, monkeypatch):
    if products == torch.float32:
        # torch's has no other type of products.
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    parameters = matrices()
    others = copy.deepcopy(parameters)
    muon = Muon(parameters.parameters(), lr=0.05, weight_decay=0.2, products=products)
    known = torch.optim.Muon(
        others.parameters(), lr=0.05, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(10):
        set_gradients(parameters, step)
        set_gradients(others, step)
        muon.step()
        known.step()
    for parameter, other in zip(parameters, others, strict=True):
        torch.testing.assert_close(parameter, other, rtol=tolerance, atol=tolerance)


def test_a_step_is_as_large_as_one_of_adamw():
    generator = torch.Generator().manual_seed(0)
    for shape in [(96, 24), (24, 96), (48, 48)]:
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape, generator=generator)
        Muon([parameter], lr=0.01, products=torch.float32).step()
        size = parameter.detach().square().mean().sqrt().item() / 0.01
        assert 0.15 < size < 0.25
