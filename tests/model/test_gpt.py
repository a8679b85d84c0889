import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import PRESETS, ModelConfig
from gptlab.model import GPT

SMALL = {"vocab_size": 13, "seq_len": 10, "embed_dim": 16, "num_layers": 2, "n_heads": 4}


def tiny(**changes):
    return GPT(ModelConfig(**{**SMALL, **changes}), seed=0)


def random_tokens(rows, length):
    return torch.randint(13, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
@pytest.mark.parametrize("positions", ["rope", "sinusoidal", "learned", "none"])
def test_a_token_moves_no_logits_before_it(backend, positions):
    model = tiny(positions=positions, attention=backend, n_kv_heads=2, qk_norm=True).eval()
    tokens = random_tokens(2, 10)
    logits = model(tokens)
    for place in range(10):
        edited = tokens.clone()
        edited[:, place] = (edited[:, place] + 1) % 13
        changed = model(edited)
        torch.testing.assert_close(changed[:, :place], logits[:, :place])
        assert not torch.allclose(changed[:, place], logits[:, place])


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 50), st.floats(1, 1e4))
def test_capped_logits_stay_within_the_cap(cap, scale):
    model = tiny(logit_soft_cap=cap).eval()
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) * scale
    capped, plain = model.logits(hidden), tiny().logits(hidden)
    assert capped.abs().max() <= cap
    torch.testing.assert_close(capped, cap * torch.tanh(plain / cap))


def test_gpt2_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = GPT(ModelConfig.from_preset("gpt2"))
    assert model.num_parameters() == 124_439_808


def test_a_tied_matrix_counts_once():
    tied, untied = tiny(tie_embeddings=True), tiny(tie_embeddings=False)
    assert untied.num_parameters() - tied.num_parameters() == 13 * 16


def test_flops_by_hand():
    model = tiny(n_kv_heads=2, expansion_factor=2, activation="swiglu", positions="learned")
    attention = 16 * 16 + 2 * 16 * 8 + 16 * 16
    feed_forward = 3 * 16 * 32
    products = 2 * (attention + feed_forward) + 13 * 16
    assert model.flops_per_token() == 6 * products + 12 * 2 * 16 * 10


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name):
    with torch.device("meta"):
        model = GPT(ModelConfig.from_preset(name, dropout=0.0))
        tokens = torch.zeros(1, 3, dtype=torch.int64)
        assert model(tokens).shape == (1, 3, model.config.vocab_size)


def test_dropout_is_off_in_evaluation():
    model = tiny(dropout=0.5)
    tokens = random_tokens(1, 10)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    without = tiny().eval()
    assert torch.equal(model(tokens), without(tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "learned", "bias": True},
        {"norm": "rmsnorm", "activation": "swiglu", "n_kv_heads": 2, "qk_norm": True},
        {"positions": "sinusoidal", "activation": "relu2", "attention": "reference"},
    ],
)
def test_bf16_autocast_is_near_fp32_and_warns_of_nothing(changes):
    model = tiny(**changes).eval()
    tokens = random_tokens(2, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(tokens)
    exact = model(tokens)
    assert (rounded - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("positions", ["rope", "sinusoidal", "learned"])
def test_a_converted_model_computes_in_its_dtype(dtype, positions):
    model = tiny(positions=positions, qk_norm=True).eval()
    tokens = random_tokens(2, 10)
    exact = model(tokens)
    converted = model.to(dtype)(tokens)
    assert converted.dtype == dtype
    assert (converted - exact).abs().max() < 0.03 * exact.abs().max()
