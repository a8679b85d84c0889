import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptlab.config import ModelConfig
from gptlab.errors import ConfigError
from gptlab.model import GPT
from gptlab.model.init import initialise

CONFIGS = st.builds(
    ModelConfig,
    vocab_size=st.integers(1, 9),
    seq_len=st.integers(1, 5),
    embed_dim=st.just(8),
    num_layers=st.integers(1, 2),
    n_heads=st.just(4),
    n_kv_heads=st.sampled_from([None, 1, 2, 4]),
    expansion_factor=st.sampled_from([1, 2.5, 4]),
    positions=st.sampled_from(["rope", "sinusoidal", "learned", "none"]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    activation=st.sampled_from(["gelu", "gelu_tanh", "swiglu", "relu2"]),
    bias=st.booleans(),
    qk_norm=st.booleans(),
    tie_embeddings=st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(CONFIGS)
def test_every_parameter_of_every_variation_has_a_rule(config):
    model = GPT(config, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert parameter.eq(1).all(), name
        elif name.endswith("bias"):
            assert parameter.eq(0).all(), name
        else:
            assert parameter.ne(0).all(), name
            assert parameter.abs().max() < 0.02 * 6, name
    assert model.num_parameters() == sum(p.numel() for p in {*model.parameters()})


def test_deviations():
    config = ModelConfig(
        vocab_size=500,
        seq_len=100,
        embed_dim=64,
        num_layers=3,
        n_heads=4,
        positions="learned",
        activation="swiglu",
        tie_embeddings=False,
    )
    matrices = [(n, p) for n, p in GPT(config, seed=0).named_parameters() if p.dim() > 1]
    assert len(matrices) == 3 + 3 * 5
    for name, parameter in matrices:
        writes_to_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
        expected = 0.02 / math.sqrt(6) if writes_to_stream else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
        assert abs(parameter.mean().item()) < expected / 10, name


def test_a_parameter_without_a_rule_raises():
    module = nn.Module()
    module.strange = nn.Parameter(torch.zeros(2))
    with pytest.raises(ConfigError, match="parameter 'strange' matches 0 initialisation rules"):
        initialise(module, ModelConfig(num_layers=1))


CONFIG = ModelConfig(vocab_size=7, seq_len=4, embed_dim=8, num_layers=1, n_heads=2)


def weights(seed=None):
    return torch.cat([p.detach().flatten() for p in GPT(CONFIG, seed=seed).parameters()])


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first = weights(seed=1)
    assert not torch.equal(first, weights(seed=2))
    torch.manual_seed(99)
    assert torch.equal(first, weights(seed=1))
    torch.set_rng_state(state)
    weights(seed=1)


def test_without_a_seed_the_global_generator_decides():
    torch.manual_seed(5)
    first = weights()
    assert not torch.equal(first, weights())
    torch.manual_seed(5)
    assert torch.equal(first, weights())
