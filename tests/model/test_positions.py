import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from gptlab.config import ModelConfig
from gptlab.model import GPT
from gptlab.model.positions import (
    frequencies,
    rotary_frequencies,
    rotary_scale,
    rotary_table,
    rotate,
    sinusoidal_table,
)


def turned(x_K, position, theta=100.0):
    cos, sin = rotary_table(position + 1, frequencies(len(x_K), theta=theta))
    return rotate(x_K.view(1, 1, 1, -1), cos[position:], sin[position:]).flatten()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 4),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
)
def test_rotary_products_depend_on_distance_alone(seed, pairs, first, second, shift):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 2 * pairs, generator=generator)
    product = turned(q, first) @ turned(k, second)
    shifted = turned(q, first + shift) @ turned(k, second + shift)
    torch.testing.assert_close(shifted, product, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned(q, first).norm(), q.norm())


def test_rotary_layout_is_that_of_llama():
    x_BTHK = torch.randn(2, 7, 3, 8, generator=torch.Generator().manual_seed(0))
    config = LlamaConfig(
        hidden_size=24,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    cos, sin = LlamaRotaryEmbedding(config)(x_BTHK, torch.arange(7).unsqueeze(0))
    x_BHTK = x_BTHK.transpose(1, 2)
    theirs, _ = apply_rotary_pos_emb(x_BHTK, x_BHTK, cos, sin)
    ours = rotate(x_BTHK, *rotary_table(7, frequencies(8, theta=500.0)))
    torch.testing.assert_close(ours, theirs.transpose(1, 2))


def test_rotation_keeps_the_dtype():
    table = rotary_table(2, frequencies(4, theta=100.0))
    assert rotate(torch.ones(1, 2, 1, 4, dtype=torch.bfloat16), *table).dtype == torch.bfloat16


def test_sinusoidal_table_is_the_formula_of_the_paper():
    table = sinusoidal_table(6, 8)
    for position in range(6):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


def embedded(positions):
    config = ModelConfig(
        vocab_size=11, seq_len=6, embed_dim=8, num_layers=1, n_heads=2, positions=positions
    )
    model = GPT(config, seed=0).eval()
    tokens = torch.tensor([[3, 3, 5, 3]])
    return model, model.embedding(tokens), model._embed(tokens, torch.arange(4))


def test_learned_positions_are_added():
    model, tokens_BTD, embedded_BTD = embedded("learned")
    torch.testing.assert_close(embedded_BTD, tokens_BTD + model.position_embedding.weight[:4])


def test_sinusoidal_positions_are_added_to_scaled_tokens():
    _, tokens_BTD, embedded_BTD = embedded("sinusoidal")
    torch.testing.assert_close(embedded_BTD, tokens_BTD * math.sqrt(8) + sinusoidal_table(4, 8))


@pytest.mark.parametrize("positions", ["rope", "none"])
def test_other_positions_leave_the_embedding_alone(positions):
    _, tokens_BTD, embedded_BTD = embedded(positions)
    assert torch.equal(embedded_BTD, tokens_BTD)


def test_without_positions_the_order_before_a_token_does_not_matter():
    config = ModelConfig(
        vocab_size=11, seq_len=6, embed_dim=8, num_layers=1, n_heads=2, positions="none"
    )
    model = GPT(config, seed=0).eval()
    logits = model(torch.tensor([[1, 2, 3, 4], [3, 1, 2, 4]]))[:, -1]
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize("positions", ["rope", "sinusoidal"])
def test_position_tables_stay_exact_in_a_16_bit_model(positions):
    config = ModelConfig(
        vocab_size=11, seq_len=64, embed_dim=8, num_layers=1, n_heads=2, positions=positions
    )
    model = GPT(config, seed=0)
    before = {name: table.clone() for name, table in model.named_buffers()}
    model.bfloat16()
    assert before.keys() == dict(model.named_buffers()).keys()
    for name, table in model.named_buffers():
        assert torch.equal(table, before[name])
    assert model(torch.zeros(1, 64, dtype=torch.int64)).dtype == torch.bfloat16


@pytest.mark.parametrize("positions", ["rope", "sinusoidal"])
def test_position_tables_survive_construction_without_memory(positions):
    config = ModelConfig(
        vocab_size=11, seq_len=6, embed_dim=8, num_layers=1, n_heads=2, positions=positions
    )
    expected = GPT(config, seed=0)
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu").load_state_dict(expected.state_dict())
    tokens = torch.arange(6).unsqueeze(0)
    torch.testing.assert_close(model(tokens), expected(tokens))


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"rope_scaling": "linear", "rope_factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_len": 64},
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        (
            {
                "rope_scaling": "llama3",
                "rope_factor": 3.0,
                "rope_original_len": 100,
                "rope_low_turns": 0.5,
                "rope_high_turns": 6.0,
            },
            {
                "rope_type": "llama3",
                "factor": 3.0,
                "low_freq_factor": 0.5,
                "high_freq_factor": 6.0,
                "original_max_position_embeddings": 100,
            },
        ),
        (
            {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 64},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
        (
            {
                "rope_scaling": "yarn",
                "rope_factor": 2.0,
                "rope_original_len": 512,
                "rope_high_turns": 16.0,
                "rope_low_turns": 2.0,
                "rope_attention_factor": 1.3,
            },
            {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 512,
                "beta_fast": 16,
                "beta_slow": 2,
                "attention_factor": 1.3,
            },
        ),
    ],
)
def test_stretched_frequencies_are_those_of_transformers(ours, theirs, share):
    rope = {**theirs, "rope_theta": 500.0, "partial_rotary_factor": share}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=256, rope_parameters=rope
    )
    expected, scale = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, torch.device("cpu"))
    config = ModelConfig(
        embed_dim=64, n_heads=2, seq_len=256, rope_theta=500.0, rotary_share=share, **ours
    )
    torch.testing.assert_close(rotary_frequencies(config).float(), expected, rtol=1e-6, atol=0)
    assert rotary_scale(config) == pytest.approx(scale)
