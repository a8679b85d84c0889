"""Each parameter has exactly one decay rule, and ten steps equal AdamW as the paper writes it."""

import math

import pytest
import torch
from torch import nn

from gptlab.config import ModelConfig, OptimizerConfig
from gptlab.errors import ConfigError
from gptlab.model import GPT
from gptlab.training.optimizers import make_optimizer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": True, "positions": "learned", "tie_embeddings": False},
        {"norm": "rmsnorm", "activation": "swiglu", "qk_norm": True, "n_kv_heads": 1},
    ],
)
def test_every_parameter_is_in_one_group_and_matrices_decay(changes):
    model = GPT(ModelConfig(embed_dim=8, num_layers=2, n_heads=2, vocab_size=20, **changes), seed=0)
    optimizer = make_optimizer(model, OptimizerConfig(weight_decay=0.3))
    decay_of = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    for parameter in model.parameters():
        assert decay_of[id(parameter)] == (0.3 if parameter.ndim == 2 else 0.0)


def test_a_parameter_without_a_rule_is_refused():
    with pytest.raises(ConfigError, match="parameter 'weight' has 3 dimensions: no decay rule"):
        make_optimizer(nn.Conv1d(2, 2, 3), OptimizerConfig())


def adamw_by_hand(value, gradients, *, rate, beta1, beta2, decay, eps=1e-8):
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        value = value * (1 - rate * decay)
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        unbiased = first / (1 - beta1**step)
        scale = (second / (1 - beta2**step)).sqrt() + eps
        value = value - rate * unbiased / scale
    return value


def test_ten_steps_equal_adamw_by_hand():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 2).double()
    config = OptimizerConfig(learning_rate=0.05, weight_decay=0.2, beta1=0.8, beta2=0.9)
    optimizer = make_optimizer(layer, config)
    start = {name: p.detach().clone() for name, p in layer.named_parameters()}
    gradients = {
        name: [torch.randn(p.shape, generator=generator).double() for _ in range(10)]
        for name, p in layer.named_parameters()
    }
    for step in range(10):
        for name, parameter in layer.named_parameters():
            parameter.grad = gradients[name][step]
        optimizer.step()
    for name, parameter in layer.named_parameters():
        decay = 0.2 if name == "weight" else 0.0
        expected = adamw_by_hand(
            start[name], gradients[name], rate=0.05, beta1=0.8, beta2=0.9, decay=decay
        )
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)
        assert math.isfinite(parameter.sum().item())
