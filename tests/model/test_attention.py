import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig
from gptlab.errors import BackendError
from gptlab.model import attend, attention
from gptlab.model.attention import attention_weights, usual_backend
from gptlab.model.multi_head import Attention, Context

BACKENDS = ("reference", "sdpa", "blocked", "auto")


def slow_attention(q, k, v, *, causal, window=None, mask=None):
    """One score at a time, in float64."""
    B, T, H, K = q.shape
    S, group = k.shape[1], H // k.shape[2]
    rows = []
    for b in range(B):
        for t in range(T):
            for h in range(H):
                visible = [
                    s
                    for s in range(S)
                    if (not causal or s <= S - T + t)
                    and (window is None or s > S - T + t - window)
                    and (mask is None or mask[b][t][s])
                ]
                scores = torch.stack(
                    [q[b, t, h] @ k[b, s, h // group] / math.sqrt(K) for s in visible]
                )
                weights = scores.exp() / scores.exp().sum()
                values = torch.stack([v[b, s, h // group] for s in visible])
                rows.append((weights.unsqueeze(1) * values).sum(0))
    return torch.stack(rows).view(B, T, H, K)


def random_inputs(seed, B, T, S, H, Hkv, K, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, T, H, K), (B, S, Hkv, K), (B, S, Hkv, K))
    return [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]


@st.composite
def problems(draw):
    groups, kv_heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    length = draw(st.integers(1, 5))
    shape = (
        draw(st.integers(1, 2)),
        length,
        length + draw(st.integers(0, 4)),
        groups * kv_heads,
        kv_heads,
        draw(st.integers(1, 4)),
    )
    window = draw(st.sampled_from([None, 1, 2, 3, 20]))
    return shape, draw(st.integers(0, 1000)), draw(st.booleans()), window, draw(st.booleans())


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(problem=problems())
def test_agrees_with_a_loop_in_float64(backend, problem):
    shape, seed, causal, window, masked = problem
    B, T, S, *_ = shape
    inputs = random_inputs(seed, *shape)
    mask = None
    if masked:
        mask = torch.rand(B, T, S, generator=torch.Generator().manual_seed(seed)) < 0.5
        mask |= torch.ones(T, S).tril(S - T).triu(S - T).bool()
    options = {"causal": causal, "window": window}
    expected = slow_attention(*inputs, **options, mask=mask)
    actual = attend(*inputs, backend=backend, **options, mask_BTS=mask)
    torch.testing.assert_close(actual, expected)
    expected_gradients = torch.autograd.grad(expected.square().sum(), inputs)
    gradients = torch.autograd.grad(actual.square().sum(), inputs)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(problem=problems(), data=st.data())
def test_filling_behind_the_keys_is_not_looked_at(backend, problem, data):
    shape, seed, causal, _, masked = problem
    B, T, S, *_ = shape
    inputs = random_inputs(seed, *shape)
    lengths = torch.tensor([data.draw(st.integers(1, S)) for _ in range(B)])
    mask = (torch.arange(S) < lengths.view(B, 1, 1)).expand(B, T, S)
    given_mask = None
    if masked:
        given_mask = torch.rand(B, T, S, generator=torch.Generator().manual_seed(seed)) < 0.5
        given_mask[:, :, 0] = True
        mask = mask & given_mask
    expected = slow_attention(*inputs, causal=causal, mask=mask)
    options = {"causal": causal, "mask_BTS": given_mask, "lengths_B": lengths}
    actual = attend(*inputs, backend=backend, **options)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(x.square().sum(), inputs) for x in (expected, actual)]
    torch.testing.assert_close(*gradients)
    q, k, v = inputs
    weights = attention_weights(q, k, **options)
    values = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    torch.testing.assert_close(torch.einsum("bhts,bshk->bthk", weights, values), expected)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_sums_that_are_compiled_for_one_query(data):
    B, S, groups, kv_heads = (data.draw(st.integers(1, 3)) for _ in range(4))
    inputs = random_inputs(0, B, 1, S, groups * kv_heads, kv_heads, 4, dtype=torch.float32)
    lengths = torch.tensor([data.draw(st.integers(1, S)) for _ in range(B)])
    expected = attend(*inputs, backend="reference", causal=False, lengths_B=lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "is_compiled", lambda: True)
        found = attend(*inputs, backend="auto", causal=False, lengths_B=lengths)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, attend(*inputs, backend="reference", causal=False)) or (
        lengths.eq(S).all()
    )


@pytest.mark.parametrize(("length", "held"), [(64, 0), (65, 3), (130, 0), (300, 40)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_blocks_of_queries_come_to_the_whole(length, held, causal, masked):
    inputs = random_inputs(0, 2, length, length + held, 4, 2, 4)
    mask = None
    if masked:
        generator = torch.Generator().manual_seed(1)
        mask = torch.rand(2, length, length + held, generator=generator) < 0.5
        mask[:, :, 0] = True
    expected, actual = (
        attend(*inputs, backend=backend, causal=causal, mask_BTS=mask)
        for backend in ("reference", "blocked")
    )
    torch.testing.assert_close(actual, expected)
    gradients = (torch.autograd.grad(x.square().sum(), inputs) for x in (expected, actual))
    torch.testing.assert_close(*gradients)


def test_the_gradient_of_blocks_with_dropout_is_that_of_the_masks_drawn():
    inputs = random_inputs(0, 1, 70, 70, 2, 1, 2)

    def dropped(*inputs):
        torch.manual_seed(5)
        return attend(*inputs, backend="blocked", dropout=0.3)

    assert torch.autograd.gradcheck(dropped, inputs, fast_mode=True)


def test_the_gradient_of_blocks_in_bf16_is_as_near_as_numbers_of_8_bits_allow():
    inputs = random_inputs(0, 1, 1024, 1024, 2, 2, 16, dtype=torch.float32)
    rounded = [x.detach().bfloat16().requires_grad_() for x in inputs]
    exact = torch.autograd.grad(attend(*inputs, backend="reference").square().sum(), inputs)
    near = torch.autograd.grad(attend(*rounded, backend="blocked").square().sum(), rounded)
    for expected, found in zip(exact, near, strict=True):
        assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()


def test_blocks_under_autocast_and_without_gradients():
    inputs = random_inputs(0, 1, 70, 70, 2, 1, 4, dtype=torch.float32)
    expected = attend(*inputs, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        output = attend(*inputs, backend="blocked")
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(attend(*inputs, backend="blocked"), expected)


def test_blocks_have_no_second_derivative():
    inputs = random_inputs(0, 1, 4, 4, 1, 1, 2)
    output = attend(*inputs, backend="blocked")
    (gradient,) = torch.autograd.grad(output.square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("dtype", "length", "expected"),
    [(torch.bfloat16, 2, "blocked"), (torch.bfloat16, 1, "sdpa"), (torch.float32, 2, "sdpa")],
)
def test_what_auto_means_on_a_cpu(dtype, length, expected):
    assert usual_backend(torch.device("cpu"), dtype, length=length) == expected
    assert usual_backend(torch.device("cuda"), dtype, length=length) == "sdpa"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_16_bit_result_is_near_and_keeps_its_dtype(backend):
    inputs = random_inputs(0, 2, 6, 9, 4, 2, 8, dtype=torch.float32)
    exact = attend(*inputs, backend="reference")
    rounded = attend(*(x.bfloat16() for x in inputs), backend=backend)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_drops_whole_weights_and_scales_the_rest(backend):
    q, k, _ = random_inputs(0, 1, 4, 4, 1, 1, 4)
    identity = torch.eye(4, dtype=torch.float64)[None, :, None]
    weights = attend(q, k, identity, backend="reference", causal=False).squeeze()
    dropped = attend(q, k, identity, backend=backend, causal=False, dropout=0.5).squeeze()
    ratios = set((dropped / weights).round(decimals=6).flatten().tolist())
    assert ratios <= {0.0, 2.0}
    assert not torch.equal(dropped, weights)


@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
def test_the_layer_drops_in_training_and_only_then(backend):
    config = ModelConfig(embed_dim=8, n_heads=2, dropout=0.5, positions="none", attention=backend)
    layer = Attention(config)
    x_BTD = torch.randn(1, 6, 8)

    def run():
        return layer(x_BTD, Context(torch.arange(6)))

    assert not torch.equal(run(), run())
    layer.eval()
    assert torch.equal(run(), run())


def test_unknown_backend():
    inputs = random_inputs(0, 1, 1, 1, 1, 1, 2)
    with pytest.raises(BackendError, match="there is no attention backend 'xformers'; known: auto"):
        attend(*inputs, backend="xformers")


def test_flash_takes_no_mask():
    inputs = random_inputs(0, 1, 1, 1, 1, 1, 2)
    with pytest.raises(BackendError, match=r"takes no mask.*--attention auto"):
        attend(*inputs, backend="flash", mask_BTS=torch.ones(1, 1, 1, dtype=torch.bool))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("lengths", [(64, 64), (1, 64), (5, 64)])
def test_backends_agree_on_a_gpu_in_bf16(lengths):
    inputs = random_inputs(0, 2, *lengths, 4, 2, 64, dtype=torch.float32)
    exact = attend(*(x.double() for x in inputs), backend="reference")
    on_gpu = [x.bfloat16().cuda() for x in inputs]
    for backend in BACKENDS:
        result = attend(*on_gpu, backend=backend).double().cpu()
        torch.testing.assert_close(result, exact, atol=0.03, rtol=0.03)
