"""Weights in 8 and 4 bits stay as near as promised, and compute what they stand for."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab
from gptlab.config import ModelConfig, Quantization
from gptlab.errors import ConfigError
from gptlab.model import GPT, grow_vocabulary, quantized
from gptlab.model.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix
from gptlab.testing import check_model

CONFIG = ModelConfig(vocab_size=13, seq_len=12, embed_dim=16, num_layers=2, n_heads=2)
TOKENS = torch.tensor([[1, 5, 12, 3, 0], [7, 7, 2, 9, 11]])
FLOAT32, BFLOAT16 = 2.0**-24, 2.0**-8
TINY = torch.finfo(torch.float32).tiny

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 12)


def make(**changes: object) -> GPT:
    model = GPT(CONFIG.replace(**changes), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases begin as zeros, and ones say little of norms.
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter)) + len(name) / 100)
    return model.eval()


def filled(matrix_NK: torch.Tensor, **settings: object) -> QuantizedMatrix:
    shape = (matrix_NK.shape[0], matrix_NK.shape[1])
    matrix = QuantizedEmbedding(shape, Quantization(**settings), dtype=matrix_NK.dtype)
    return matrix.fill(matrix_NK)


def groups_of(matrix_NK: torch.Tensor, matrix: QuantizedMatrix) -> torch.Tensor:
    return matrix_NK.double().reshape(len(matrix_NK), -1, matrix.group_size)


@st.composite
def matrices(draw: st.DrawFn, *, halves: bool = False) -> tuple[torch.Tensor, int | None]:
    """A matrix of any scale, with zeros and perhaps one huge value; and a group size that fits."""
    size, groups = draw(sizes), draw(st.integers(1, 3))
    columns = size * groups * (2 if halves else 1)
    generator = torch.Generator().manual_seed(draw(seeds))
    matrix_NK = torch.randn(draw(sizes), columns, generator=generator)
    matrix_NK *= 10.0 ** draw(st.integers(-42, 34))
    matrix_NK[torch.rand(matrix_NK.shape, generator=generator) < draw(st.floats(0, 1))] = 0
    if draw(st.booleans()):
        matrix_NK[0, draw(st.integers(0, columns - 1))] = draw(st.sampled_from([-1e37, 1e37]))
    return matrix_NK, draw(st.sampled_from([None, size]))


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_in_8_bits_no_weight_moves_by_more_than_half_a_scale(drawn):
    matrix_NK, group_size = drawn
    matrix = filled(matrix_NK, group_size=group_size)
    moves_NGM = groups_of(matrix.dense(), matrix) - groups_of(matrix_NK, matrix)
    scale_NG = matrix.scale.double()
    largest_NG = groups_of(matrix_NK, matrix).abs().amax(dim=-1)
    rounding_NG = 4 * FLOAT32 * largest_NG
    assert (moves_NGM.abs().amax(dim=-1) <= scale_NG / 2 + rounding_NG).all()
    assert (scale_NG <= (largest_NG / 127 * (1 + FLOAT32)).clamp(min=TINY)).all()
    assert matrix.weight.abs().max() <= 127


@settings(max_examples=150, deadline=None)
@given(matrices(halves=True))
def test_in_4_bits_a_group_moves_by_no_more_than_promised(drawn):
    matrix_NK, group_size = drawn
    matrix = filled(matrix_NK, bits=4, group_size=group_size)
    moves_NGM = groups_of(matrix.dense(), matrix) - groups_of(matrix_NK, matrix)
    largest_NG = groups_of(matrix_NK, matrix).abs().amax(dim=-1)
    allowed_NG = (largest_NG / 14 * (1 + BFLOAT16 + 16 * FLOAT32)).clamp(min=TINY / 2)
    assert (moves_NGM.square().mean(dim=-1).sqrt() <= allowed_NG).all()


@pytest.mark.parametrize("largest", [-7.0, 7.0, -8.0])
def test_in_4_bits_the_scale_is_the_one_that_fits(largest):
    integers = torch.tensor([[largest, 1, 2, 3, 4, 5, 6, 7] * 2])
    assert torch.equal(filled(integers, bits=4).dense(), integers)


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros(bits):
    zeros = torch.zeros(3, 8)
    assert torch.equal(filled(zeros, bits=bits).dense(), zeros)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 40), seeds)
def test_4_bits_are_packed_and_come_back(rows, half, seed):
    generator = torch.Generator().manual_seed(seed)
    integers_NK = torch.randint(-8, 8, (rows, 2 * half), generator=generator)
    # With this in each group, the scale is one.
    integers_NK[:, 0], integers_NK[:, half] = -8, -8
    matrix = filled(integers_NK.float(), bits=4, group_size=half)
    assert torch.equal(matrix.dense(), integers_NK.float())
    assert (matrix.weight.dtype, matrix.weight.shape) == (torch.uint8, (rows, half))
    for row, column in ((0, 0), (rows - 1, half - 1)):
        byte = matrix.weight[row, column].item()
        low, high = byte % 16 - 8, byte // 16 - 8
        assert (low, high) == (integers_NK[row, column], integers_NK[row, column + half])


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 60), st.sampled_from([8, 4]), seeds)
def test_products_and_rows_are_those_of_what_it_stands_for(rows, half, bits, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = filled(torch.randn(rows, 2 * half, generator=generator), bits=bits)
    x_BTK = torch.randn(2, 3, 2 * half, generator=generator)
    bias_N = torch.randn(rows, generator=generator)
    for bias in (None, bias_N):
        expected = F.linear(x_BTK, matrix.dense(), bias)
        torch.testing.assert_close(matrix.product(x_BTK, bias), expected, atol=1e-4, rtol=1e-4)
    ids = torch.randint(rows, (2, 3), generator=generator)
    assert torch.equal(matrix.dense(ids), matrix.dense()[ids])


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 60), st.sampled_from([8, 4]), st.booleans(), seeds)
def test_what_is_compiled_for_one_row_computes_the_same(rows, half, bits, grouped, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix_NK = torch.randn(rows, 2 * half, generator=generator)
    matrix = filled(matrix_NK, bits=bits, group_size=half if grouped else None)
    x_11K = torch.randn(1, 1, 2 * half, generator=generator)
    bias_N = torch.randn(rows, generator=generator)
    expected = F.linear(x_11K, matrix.dense(), bias_N)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "is_compiled_row", lambda _x: True)
        torch.testing.assert_close(matrix.product(x_11K, bias_N), expected, atol=1e-4, rtol=1e-4)
        in_16_bits = matrix.product(x_11K.bfloat16(), bias_N.bfloat16())
    assert (in_16_bits.dtype, in_16_bits.shape) == (torch.bfloat16, (1, 1, rows))


@pytest.mark.parametrize(
    ("columns", "size"),
    [(2, 1), (8, 4), (64, 32), (128, 32), (96, 24), (80, 40), (74, 37), (2734, 1367)],
)
def test_usual_groups_of_4_bits_are_about_32_and_their_scales_take_little_room(columns, size):
    assert filled(torch.ones(1, columns), bits=4).group_size == size


KINDS = [
    {"bits": 8},
    {"bits": 8, "group_size": 4},
    {"bits": 4},
    {"bits": 4, "group_size": 2},
]
MODELS = [
    {},
    {"bias": True, "tie_embeddings": True, "positions": "learned"},
    {"activation": "swiglu", "n_kv_heads": 1, "norm": "rmsnorm"},
]


def replaced(model: GPT, small: GPT) -> GPT:
    """`model`, whose weights are what those of `small` stand for."""
    replaced = copy.deepcopy(model)
    for name, module in small.named_modules():
        if isinstance(module, QuantizedMatrix):
            replaced.get_submodule(name).weight.data = module.dense()
    return replaced


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", MODELS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_weights_it_stands_for(shape, kind, dtype):
    model = make(**shape).to(dtype)
    small = gptlab.quantize(model, **kind)
    matrices = [module for module in small.modules() if isinstance(module, QuantizedMatrix)]
    each = 5 if shape.get("activation") == "swiglu" else 4
    assert len(matrices) == 2 * each + (1 if shape.get("tie_embeddings") else 2)
    with torch.no_grad():
        logits = small(TOKENS)
        assert logits.dtype == dtype
        near = 0.05 if logits.dtype == torch.bfloat16 else 1e-4
        expected = replaced(model, small)(TOKENS)
        torch.testing.assert_close(logits, expected, atol=near, rtol=near)
        assert not torch.equal(logits, model(TOKENS))
        if kind["bits"] == 8:
            torch.testing.assert_close(logits, model(TOKENS), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", MODELS, ids=str)
def test_parameters_and_operations_are_counted_as_before(shape, kind):
    model = make(**shape)
    small = gptlab.quantize(model, **kind)
    assert small.num_parameters() == model.num_parameters()
    assert small.flops_per_token() == model.flops_per_token()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_source_stays_and_shares_what_is_not_quantized(kind):
    model = make(bias=True, positions="learned").train()
    before = copy.deepcopy(model.state_dict())
    small = gptlab.quantize(model, **kind)
    assert (model.training, small.training) == (True, False)
    assert (model.quantization, small.quantization) == (None, Quantization(**kind))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in small.parameters())
    shared = dict(small.named_parameters())
    assert {"norm.weight", "position_embedding.weight", "blocks.1.attention.o_proj.bias"} <= set(
        shared
    )
    for name, parameter in shared.items():
        assert parameter.data_ptr() == model.get_parameter(name).data_ptr()
    small.to(torch.bfloat16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bits", [8, 4])
def test_other_numbers_leave_integers_and_scales_alone(bits, dtype):
    small = gptlab.quantize(make(bias=True), bits=bits)
    before = copy.deepcopy(small.state_dict())
    moved = copy.deepcopy(small).to(dtype)
    assert (moved.dtype, moved.embedding.dense().dtype) == (dtype, dtype)
    for name, tensor in moved.state_dict().items():
        if name.endswith(".scale") or before[name].dtype in (torch.int8, torch.uint8):
            assert tensor.dtype == before[name].dtype
            assert torch.equal(tensor, before[name])
        else:
            assert tensor.dtype == dtype
    assert moved(TOKENS).dtype == dtype
    assert torch.equal(moved.to(torch.float32).embedding.dense(), small.embedding.dense())


@pytest.mark.parametrize("bits", [8, 4])
def test_a_copy_is_one_and_stands_alone(bits):
    small = gptlab.quantize(make(), bits=bits)
    other = copy.deepcopy(small)
    logits = small(TOKENS)
    assert torch.equal(other(TOKENS), logits)
    other.embedding.weight.zero_()
    assert torch.equal(small(TOKENS), logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_model_keeps_the_promises_of_a_model(bits, tied):
    small = gptlab.quantize(make(tie_embeddings=tied), bits=bits)
    check_model(small)
    assert f"QuantizedLinear((48, 16), bits={bits}, group_size=" in repr(small)


def test_it_learns_nothing():
    loss = gptlab.quantize(make())(TOKENS).sum()
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.backward()


def test_what_can_not_be_quantized_is_one_line():
    odd = make(expansion_factor=17 / 16)
    with pytest.raises(ConfigError, match="a matrix has 17 columns, but 4 bits need an even"):
        gptlab.quantize(odd, bits=4)
    gptlab.quantize(odd, bits=8)
    with pytest.raises(ConfigError, match="group_size is 5, which does not divide the 16 columns "):
        gptlab.quantize(make(), group_size=5)
    message = "group_size is 16, which does not divide the 8 columns of half a matrix; choose one"
    with pytest.raises(ConfigError, match=message):
        gptlab.quantize(make(), bits=4, group_size=16)
    with pytest.raises(ConfigError, match="bits is 3, but it should be 8 or 4"):
        gptlab.quantize(make(), bits=3)
    small = gptlab.quantize(make(), bits=4)
    with pytest.raises(ConfigError, match="has 4 bits a weight already; quantize the one it was"):
        gptlab.quantize(small)
    with pytest.raises(ConfigError, match="has 4 bits a weight, and such a one does not grow; use"):
        grow_vocabulary(small, 20)
    broken = make()
    broken.blocks[0].attention.o_proj.weight.data[0, 0] = float("nan")
    message = r"blocks.0.attention.o_proj.weight is not finite everywhere; use another model"
    with pytest.raises(ConfigError, match=message):
        gptlab.quantize(broken)


def test_layers_have_no_memory_before_they_are_filled():
    layer = QuantizedLinear((3, 8), Quantization(bits=4), dtype=torch.float32, bias=None)
    assert {buffer.device.type for buffer in layer.buffers()} == {"meta"}
    layer.fill(7 * torch.eye(3, 8))
    assert torch.equal(layer(torch.ones(2, 8)), torch.full((2, 3), 7.0))
