"""The Transformer against one that is written out, and against itself by another way."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import TransformerConfig
from gptlab.errors import ConfigError
from gptlab.model import Transformer
from model.naive_transformer import (
    KINDS,
    PAPER,
    SMALL,
    SOURCES,
    TARGETS,
    NaiveTransformer,
    filled,
    gradients,
    make,
)


def against_naive(model, sources, targets):
    """Logits and gradients of a batch, held against those of its rows, written out."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    naive = NaiveTransformer(model.config, weights)
    source, lengths = filled(sources, ids=model.config.source_size)
    target, _ = filled(targets)
    logits, total, expected_total = model(source, target, source_lengths=lengths), 0.0, 0.0
    for row, (one, other) in enumerate(zip(sources, targets, strict=True)):
        expected = naive.logits(one, other)
        found = logits[row, : len(other)]
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
        direction = torch.randn(expected.shape, dtype=torch.float64)
        total = total + (found * direction).sum()
        expected_total = expected_total + (expected * direction).sum()
    for name, gradient in gradients(model, total).items():
        (expected,) = torch.autograd.grad(
            expected_total, weights[name], retain_graph=True, materialize_grads=True
        )
        torch.testing.assert_close(gradient, expected, atol=1e-8, rtol=1e-8, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_the_network_written_out(kind):
    against_naive(make(**kind), SOURCES, TARGETS)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_random_settings_compute_the_network_written_out(data):
    heads = data.draw(st.sampled_from([1, 2, 4]))
    post = data.draw(st.booleans())
    own = data.draw(st.booleans())
    kind = {
        "n_heads": heads,
        "embed_dim": heads * data.draw(st.sampled_from([2, 6])),
        "n_kv_heads": data.draw(st.sampled_from([n for n in (1, 2, 4) if not heads % n])),
        "num_layers": data.draw(st.integers(1, 2)),
        "encoder_layers": data.draw(st.none() | st.integers(1, 2)),
        "positions": data.draw(st.sampled_from(["rope", "sinusoidal", "learned", "none"])),
        "norm_place": "post" if post else "pre",
        "norm": data.draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "activation": data.draw(st.sampled_from(["gelu", "gelu_tanh", "swiglu", "relu", "relu2"])),
        "bias": data.draw(st.booleans()),
        "qkv_bias": data.draw(st.none() | st.booleans()),
        "qk_norm": data.draw(st.booleans()),
        "tie_embeddings": data.draw(st.booleans()),
        "src_vocab_size": 7 if own else None,
        "share_embeddings": data.draw(st.none() | st.just(False)),
        "expansion_factor": data.draw(st.sampled_from([0.5, 2])),
    }
    rows = data.draw(st.integers(1, 3))
    texts = st.lists(st.integers(0, 6), min_size=1, max_size=5)
    sources, targets = (data.draw(st.lists(texts, min_size=rows, max_size=rows)) for _ in "ab")
    against_naive(make(**kind, seed=data.draw(st.integers(0, 3))), sources, targets)


@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
@pytest.mark.parametrize("kind", KINDS[:4])
def test_filling_comes_to_nothing(kind, backend):
    model = make(**kind, attention=backend)
    ids = model.config.source_size
    alone = [
        model(torch.tensor([s]), torch.tensor([t])) for s, t in zip(SOURCES, TARGETS, strict=True)
    ]
    expected = gradients(model, sum(logits.square().sum() for logits in alone))
    for sizes in ((6, 5), (9, 9), (7, 5)):
        source, lengths = filled(SOURCES, to=sizes[0], ids=ids)
        target, target_lengths = filled(TARGETS, to=sizes[1])
        logits = model(source, target, source_lengths=lengths)
        parts = [row[:n] for row, n in zip(logits, target_lengths, strict=True)]
        for part, one in zip(parts, alone, strict=True):
            torch.testing.assert_close(part, one[0], atol=1e-12, rtol=1e-10)
        found = gradients(model, sum(part.square().sum() for part in parts))
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-9, msg=name)


def test_without_lengths_all_of_a_source_is_read():
    model = make()
    source, target = torch.tensor([[1, 2, 3]]), torch.tensor([[4]])
    whole = model(source, target, source_lengths=torch.tensor([3]))
    torch.testing.assert_close(model(source, target), whole)
    assert not torch.allclose(model(source, target, source_lengths=torch.tensor([2])), whole)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_activation_checkpointing_moves_nothing(kind):
    model = make(**kind).train()
    source, lengths = filled(SOURCES, ids=model.config.source_size)
    target, _ = filled(TARGETS)
    found = []
    for recomputed in (False, True):
        model.activation_checkpointing = recomputed
        assert model.activation_checkpointing is recomputed
        logits = model(source, target, source_lengths=lengths)
        found.append(gradients(model, logits.square().sum()))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_parameters_and_operations_by_hand():
    own = {"src_vocab_size": 7, "encoder_layers": 1, "n_kv_heads": 1, "expansion_factor": 2}
    model = make(**own)
    kv = 2 * 12 * 6
    attention, feed_forward = 2 * 12 * 12 + kv, 2 * 12 * 24
    encoder = attention + feed_forward
    decoder = 2 * (2 * attention + feed_forward)
    norms = (2 + 2 * 3 + 2) * 12 + (1 + 2 * 2) * 2 * 6
    assert model.num_parameters() == encoder + decoder + norms + (7 + 11 + 11) * 12
    # Attention of a block reads seq_len keys: one in the encoder, two in each of the decoder's.
    products = encoder + decoder + 11 * 12
    assert model.flops_per_token() == 6 * products + 12 * (1 + 2 * 2) * 12 * 9
    tied = make(**own, tie_embeddings=True)
    assert tied.num_parameters() == model.num_parameters() - 11 * 12
    assert tied.flops_per_token() == model.flops_per_token()
    one, two = make(), make(share_embeddings=False)
    assert two.num_parameters() - one.num_parameters() == 11 * 12


def test_the_base_model_of_2017_has_its_number_of_parameters():
    """Table 3 of https://arxiv.org/abs/1706.03762 says 65 million for its base model."""
    d, ff, layers, ids = 512, 2048, 6, 37_000
    config = TransformerConfig(
        vocab_size=ids,
        embed_dim=d,
        num_layers=layers,
        n_heads=8,
        expansion_factor=ff / d,
        seq_len=512,
        **PAPER,
    )
    with torch.device("meta"):
        model = Transformer(config)
    # Section 3.2.2 has no biases in attention, section 3.3 has them in the feed-forward part; here
    # `bias` is for both. Sinusoids (3.5) are computed; one matrix is both embeddings and the head
    # (3.4).
    attention, feed_forward, norm = 4 * (d * d + d), 2 * d * ff + ff + d, 2 * d
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    assert model.num_parameters() == layers * (encoder + decoder) + ids * d == 63_082_496
    assert model.config.shares_embeddings


def test_seeds_and_beginnings():
    config = TransformerConfig(**SMALL, share_embeddings=False)
    one, same, other = (
        Transformer(config, seed=0),
        Transformer(config, seed=0),
        Transformer(config, seed=1),
    )
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        if value.ndim == 2:
            assert not torch.equal(value, other.state_dict()[name]), name
    # Neither half begins as the other does, nor as that of a run with the next seed.
    for model in (one, other):
        for name, value in model.encoder.named_parameters():
            if value.ndim == 2:
                assert not torch.equal(value, one.decoder.get_parameter(name)), name
    writes = [
        p
        for name, p in one.decoder.named_parameters()
        if name.endswith(("o_proj.weight", "down_proj.weight"))
    ]
    assert len(writes) == 6
    assert torch.cat([p.flatten() for p in writes]).std().item() == pytest.approx(
        0.02 / 6**0.5, rel=0.1
    )


def test_dropout_is_off_in_evaluation():
    model = make(dropout=0.5)
    source, target = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])
    assert torch.equal(model(source, target), make()(source, target))
    model.train()
    assert not torch.equal(model(source, target), model(source, target))


@pytest.mark.parametrize(
    ("sizes", "lengths", "message"),
    [
        ((2, 2, 1, 2), None, "2 sources came with 1 targets; give a target for each"),
        ((1, 10, 1, 2), None, "10 tokens exceed the model's seq_len of 9; give fewer"),
        ((1, 2, 1, 10), None, "10 tokens exceed the model's seq_len of 9; give fewer"),
        ((1, 2, 1, 2), [1, 2], "lengths are (2,), but 1 rows came; give one for each row"),
    ],
)
def test_rows_that_do_not_fit(sizes, lengths, message):
    source, target = (torch.ones(*size, dtype=torch.int64) for size in (sizes[:2], sizes[2:]))
    lengths = None if lengths is None else torch.tensor(lengths)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make()(source, target, source_lengths=lengths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 4}, "window is 4, but an encoder looks both ways; leave it out"),
        (
            {"share_embeddings": True, "src_vocab_size": 7},
            "share_embeddings needs one vocabulary, but src_vocab_size is 7 and tgt_vocab_size 11;",
        ),
        (
            {"parallel_residual": True, "norm_place": "post"},
            "parallel_residual needs the norms before the parts; write --norm_place pre",
        ),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        make(**changes)


def test_parallel_residuals_read_what_came_into_the_block():
    model = make(parallel_residual=True)
    straight = copy.deepcopy(model)
    source, target = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])
    for block in straight.all_blocks:
        block.is_parallel = False
    assert not torch.allclose(model(source, target), straight(source, target))


@pytest.mark.parametrize("kind", KINDS[:4])
def test_backends_agree(kind):
    model = make(**kind).float()
    source, lengths = filled(SOURCES, ids=model.config.source_size)
    target, _ = filled(TARGETS)
    model.use_attention("reference")
    exact = model(source, target, source_lengths=lengths)
    for backend in ("sdpa", "blocked", "auto"):
        model.use_attention(backend)
        assert {m.backend for m in model.modules() if hasattr(m, "backend")} == {backend}
        found = model(source, target, source_lengths=lengths)
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(source, target, source_lengths=lengths)
        assert (rounded - exact).norm() < 0.25 * exact.norm()
    model.to(torch.bfloat16)
    exact = copy.deepcopy(model).float()(source, target, source_lengths=lengths)
    for backend in ("reference", "sdpa", "blocked"):
        model.use_attention(backend)
        rounded = model(source, target, source_lengths=lengths)
        assert rounded.dtype == torch.bfloat16
        assert (rounded - exact).norm() < 0.25 * exact.norm()


@pytest.mark.parametrize("kind", KINDS[:4])
def test_maps_of_attention_are_what_the_layers_compute_with(kind):
    model = make(**kind)
    source, lengths = filled(SOURCES, ids=model.config.source_size)
    memory = model.encode(source, lengths=lengths)
    x = torch.randn(3, 4, 12, dtype=torch.float64)
    layer = model.decoder.blocks[0].cross_attention
    remembered = layer.remember(memory, lengths)
    weights = layer.weights(x, remembered).double()
    values = remembered.values.repeat_interleave(2 // model.config.kv_heads, dim=2)
    mixed = torch.einsum("bhts,bshk->bthk", weights, values).flatten(2)
    torch.testing.assert_close(layer.o_proj(mixed), layer(x, remembered), atol=1e-5, rtol=1e-5)
    assert weights[1, :, :, 1:].eq(0).all()
