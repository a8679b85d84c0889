import warnings
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.config import ModelConfig, TransformerConfig
from gptlab.errors import DataError
from gptlab.evaluation.attention_maps import AttentionMap, pair_maps, text_maps
from gptlab.evaluation.attention_pictures import draw_attention
from gptlab.evaluation.inspected import Inspected
from gptlab.evaluation.pair_reading import PairIds
from gptlab.model import GPT, Encoder, Network, Transformer
from gptlab.training.precision import choose_arithmetic

SHAPE = {"vocab_size": 270, "embed_dim": 32, "num_layers": 2, "n_heads": 4, "seq_len": 12}
IDS = [70, 101, 32, 99, 250, 9, 0]
PAIR = PairIds(
    source=[70, 101, 32, 99, 1], target=[50, 51, 52, 1], inputs=[0, 50, 51, 52], is_own=False
)


@pytest.fixture
def inspect(workplace):
    tokenizer = gptlab.load_tokenizer("tok")

    def made(model: Network, precision: str = "fp32") -> Inspected:
        # Weights so large that the heads look at some tokens much more than at others.
        for parameter in model.parameters():
            parameter.data *= 3
        arithmetic = choose_arithmetic("cpu", precision)
        return Inspected(Path("model"), model.eval(), tokenizer, arithmetic, None)

    return made


class Seen:
    """What the values of each layer were in a forward pass, and what became of them."""

    def __init__(self, model: Network) -> None:
        self.layers: dict[str, list[torch.Tensor]] = {}
        for name, module in model.named_modules():
            layer, _, kind = name.rpartition(".")
            if kind in ("qkv_proj", "kv_proj"):
                module.register_forward_hook(lambda *a, layer=layer: self.keep(layer, a[2]))
            elif kind == "o_proj":
                module.register_forward_pre_hook(lambda *a, layer=layer: self.keep(layer, a[1][0]))

    def keep(self, layer: str, tensor: torch.Tensor) -> None:
        self.layers.setdefault(layer, []).append(tensor.detach())

    def weights(self, layer: str, *, kv_heads: int) -> torch.Tensor:
        """The only weights that make of the values what the layer made of them, (H, T, S).

        There is one solution, as there are no more keys than numbers in a head's value.
        """
        projected, mixed = self.layers[layer][:2]
        k = 8
        v_SHK = projected[0, :, -kv_heads * k :].unflatten(-1, (-1, k))
        v_HSK = v_SHK.repeat_interleave(4 // kv_heads, dim=1).transpose(0, 1)
        output_HTK = mixed[0].unflatten(-1, (-1, k)).transpose(0, 1)
        return output_HTK.double() @ torch.linalg.pinv(v_HSK.double())


def check(attention: AttentionMap, seen: Seen, layer: str, *, kv_heads: int = 4) -> None:
    expected = seen.weights(layer, kv_heads=kv_heads)
    torch.testing.assert_close(attention.weights_HTS.double(), expected, atol=1e-4, rtol=1e-3)
    rows = attention.weights_HTS.sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    T, S = attention.weights_HTS.shape[1:]
    assert (len(attention.queries), len(attention.keys)) == (T, S)


@pytest.mark.parametrize(
    "parts",
    [
        {"positions": "learned"},
        {"positions": "rope", "n_kv_heads": 2, "qk_norm": True, "attention": "blocked"},
        {"window": 3},
    ],
)
def test_a_gpts_are_the_weights_of_its_forward_pass(inspect, parts):
    model = GPT(ModelConfig(**SHAPE, **parts), seed=1)
    inspected, seen = inspect(model), Seen(model)
    maps = text_maps(inspected, IDS, most=64)
    assert [one.name for one in maps] == ["attention-1", "attention-2"]
    assert maps[1].title == "layer 2 of 2, self-attention"
    window = parts.get("window", len(IDS))
    for number, one in enumerate(maps):
        check(one, seen, f"blocks.{number}.attention", kv_heads=parts.get("n_kv_heads", 4))
        assert not one.weights_HTS.triu(1).any()
        assert not one.weights_HTS.tril(-window).any()
        assert one.weights_HTS.tril().count_nonzero() > 4 * len(IDS)


def test_an_encoder_looks_both_ways(inspect):
    model = Encoder(ModelConfig(**SHAPE), seed=1)
    inspected, seen = inspect(model), Seen(model)
    for number, one in enumerate(text_maps(inspected, IDS, most=64)):
        check(one, seen, f"blocks.{number}.attention")
        assert one.weights_HTS.count_nonzero() == one.weights_HTS.numel()


def test_a_transformer_has_three_kinds(inspect):
    model = Transformer(TransformerConfig(**SHAPE, encoder_layers=1), seed=1)
    inspected, seen = inspect(model), Seen(model)
    maps = {one.name: one for one in pair_maps(inspected, PAIR, most=64)}
    layers = {
        "encoder-1": "encoder.blocks.0.attention",
        "decoder-1": "decoder.blocks.0.attention",
        "decoder-2": "decoder.blocks.1.attention",
        "cross-1": "decoder.blocks.0.cross_attention",
        "cross-2": "decoder.blocks.1.cross_attention",
    }
    assert list(maps) == list(layers)
    for name, layer in layers.items():
        check(maps[name], seen, layer)
    assert maps["cross-1"].weights_HTS.shape == (4, 4, 5)
    assert maps["encoder-1"].weights_HTS[0, 0, -1] > 0
    assert not maps["decoder-2"].weights_HTS.triu(1).any()
    assert list(maps["cross-1"].keys[:4]) == ["F", "e", " ", "c"]
    assert list(maps["cross-1"].queries[1:]) == ["2", "3", "4"]


def test_weights_are_in_float32_in_any_arithmetic(inspect, tmp_path):
    pairs = inspect(Transformer(TransformerConfig(**SHAPE), seed=0), "bf16")
    in_16_bits = inspect(GPT(ModelConfig(**SHAPE), seed=1).to(torch.bfloat16), "bf16")
    for found in [*pair_maps(pairs, PAIR, most=9), *text_maps(in_16_bits, IDS, most=9)]:
        assert found.weights_HTS.dtype == torch.float32
        torch.testing.assert_close(
            found.weights_HTS.sum(-1), torch.ones(found.weights_HTS.shape[:2])
        )
    draw_attention(found, tmp_path / "picture.png")


def test_long_texts_are_cut_and_say_so(inspect):
    for make in (GPT, Encoder):
        inspected = inspect(make(ModelConfig(**SHAPE), seed=1))
        (whole, _), (cut, _) = (text_maps(inspected, IDS, most=most) for most in (64, 3))
        torch.testing.assert_close(cut.weights_HTS, whole.weights_HTS[:, :3, :3])
        assert cut.weights_HTS.untyped_storage().nbytes() == 4 * cut.weights_HTS.numel()
        assert list(cut.keys) == list(whole.keys[:3])
        assert cut.title == "layer 1 of 2, self-attention\nthe first 3 of 7 tokens"
        (longest, _) = text_maps(inspected, IDS * 3, most=64)
        assert len(longest.keys) == 12
        assert longest.title.endswith("\nthe first 12 of 21 tokens")
        with pytest.raises(DataError, match="the text has no tokens; give a longer one"):
            text_maps(inspected, [], most=64)


def test_the_model_is_left_as_it_was(inspect, monkeypatch):
    model = GPT(ModelConfig(**SHAPE), seed=1)
    inspected = inspect(model)
    before = model(torch.tensor([IDS]))
    text_maps(inspected, IDS, most=64)
    torch.testing.assert_close(model(torch.tensor([IDS])), before, rtol=0, atol=0)
    monkeypatch.setattr(model.norm, "forward", None)
    with pytest.raises(TypeError):
        text_maps(inspected, IDS, most=64)
    assert not [name for name, module in model.named_modules() if module._forward_pre_hooks]


def test_a_picture_of_any_tokens_is_drawn_without_a_warning(tmp_path):
    tokens = ["$x$", " _a", "⏎", "你好", "<C3>", "a long token of many letters", "\\"]
    weights = torch.rand(3, 7, 7).softmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for T, S in ((7, 7), (1, 7), (1, 1)):
            path = tmp_path / f"{T}-{S}.png"
            draw_attention(AttentionMap("x", "$", weights[:, :T, :S], tokens[:T], tokens[:S]), path)
            assert path.read_bytes().startswith(b"\x89PNG")
