"""What is exported is the model, or nothing is there."""

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.checkpoint import implied_settings, load_state_dict
from gptlab.config import HeadSettings, LoRA, ModelConfig
from gptlab.errors import CheckpointError, ConfigError, ExportError
from gptlab.interop import write_huggingface
from gptlab.interop import writers as module
from gptlab.interop.export import export
from gptlab.interop.families import FAMILIES, family_of
from gptlab.interop.gguf_file import read_gguf
from gptlab.interop.onnx_graph import read_onnx
from gptlab.interop.parity import require_parity, token_rows
from gptlab.model import GPT, add_lora, quantize
from gptlab.model.heads import add_head
from gptlab.tokenizer import BPETokenizer

TOKENIZER = gptlab.train_bpe(
    texts=["the cat sat on the mat, and the dog ran. " * 9], vocab_size=270
)
BASE = {"vocab_size": 270, "seq_len": 24, "embed_dim": 32, "num_layers": 2, "n_heads": 4}
LLAMA = {**BASE, "norm": "rmsnorm", "activation": "swiglu", "qk_norm": False, "n_kv_heads": 2}
FORMATS = ("hf", "gguf", "onnx", "pth")
TOKENS = torch.tensor([[1, 5, 250, 3], [269, 0, 17, 17]])


def make(**settings: object) -> GPT:
    model = GPT(ModelConfig(**settings), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.manual_seed(1))
    return model


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("format", FORMATS)
def test_others_read_the_model(tmp_path, format):
    model = make(**LLAMA)
    exported = export(model, TOKENIZER, tmp_path / "out", format=format)
    assert exported.folder == tmp_path / "out"
    assert exported.weights.is_file()
    assert exported.notes == ()
    for parity in exported.parities:
        assert (
            parity.largest_difference <= parity.bound == pytest.approx(1e-4 * parity.largest_logit)
        )
    readers = {"hf": ["gptlab's reader", "transformers"], "onnx": ["ONNX Runtime"]}
    readers |= {"gguf": ["gptlab's reader"], "pth": ["PyTorch"]}
    assert [parity.reader for parity in exported.parities] == readers[format]
    names = {"hf": "LlamaForCausalLM", "gguf": "llama"}
    assert exported.architecture == names.get(format, "")
    if format != "gguf":
        assert gptlab.load_tokenizer(tmp_path / "out", kind="default") == TOKENIZER
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (manifest["format"], ModelConfig(**manifest["model"])) == (format, model.config)
    found = {
        "hf": lambda: gptlab.load(tmp_path / "out")[0],
        "gguf": lambda: read_gguf(exported.weights),
        "onnx": lambda: read_onnx(exported.weights),
        "pth": lambda: load_state_dict(exported.weights, model.config),
    }[format]()
    torch.testing.assert_close(found(TOKENS), model(TOKENS).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("format", ["hf", "pth"])
def test_norms_behind_the_parts_are_of_no_family(tmp_path, format):
    settings = {**LLAMA, "norm_place": "post"}
    model = make(**settings)
    exported = export(model, TOKENIZER, tmp_path / "out", format=format)
    assert exported.architecture == ("GptlabForCausalLM" if format == "hf" else "")
    assert not any(name.startswith("norm.") for name in model.state_dict())
    if format == "hf":
        back, _ = gptlab.load(tmp_path / "out")
        assert back.config == model.config
        assert torch.equal(back(TOKENS), model(TOKENS))
    if format == "pth":
        assert implied_settings(exported.weights, n_heads=4)["norm_place"] == "post"
    assert all("norm_place" in family.differences(model.config) for family in FAMILIES.values())
    before = {**settings, "norm_place": "pre"}
    assert family_of(ModelConfig(**before)).name == "llama"
    with pytest.raises(
        ConfigError, match=r"^no family of models has norm_place 'post' beside this"
    ):
        family_of(model.config)


def test_relu_is_of_the_families_that_have_gelu(tmp_path):
    shape = {"positions": "learned", "qk_norm": False, "bias": True, "activation": "relu"}
    model = make(**BASE, **shape)
    exported = export(model, TOKENIZER, tmp_path / "out", format="hf")
    assert exported.architecture == "GPT2LMHeadModel"
    assert gptlab.load(tmp_path / "out")[0].config == model.config.replace(qkv_bias=None)


@pytest.mark.parametrize("format", ["hf", "gguf", "pth"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_numbers_of_16_bits(tmp_path, format, precision):
    model = make(**LLAMA)
    exported = export(model, TOKENIZER, tmp_path / "out", format=format, precision=precision)
    whole = export(model, TOKENIZER, tmp_path / "whole", format=format)
    assert exported.weights.stat().st_size < 0.6 * whole.weights.stat().st_size
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    found = {
        "hf": lambda: gptlab.load(tmp_path / "out")[0].float(),
        "gguf": lambda: read_gguf(exported.weights),
        "pth": lambda: load_state_dict(exported.weights, model.config),
    }[format]()
    for name, tensor in found.state_dict().items():
        # Vectors of GGUF keep all their digits.
        keeps = format == "gguf" and tensor.dim() == 1
        expected = model.state_dict()[name]
        assert torch.equal(tensor, expected if keeps else expected.to(dtype).float())
    # A model in these numbers is written in them.
    half = GPT(model.config).eval()
    half.load_state_dict(model.state_dict())
    same = export(half.to(dtype), TOKENIZER, tmp_path / "same", format=format)
    assert same.weights.stat().st_size == exported.weights.stat().st_size


@pytest.mark.parametrize("format", FORMATS)
def test_a_wrong_tensor_leaves_nothing_behind(tmp_path, format, monkeypatch):
    def broken(name: str):
        write = getattr(module, name)

        def written(path, model, *args, **more):
            state = model.state_dict()
            state["blocks.1.feed_forward.down_proj.weight"] = torch.zeros(32, 128)
            other = GPT(model.config)
            other.load_state_dict(state)
            return write(path, other, *args, **more)

        return written

    if format == "pth":
        save = torch.save
        spoilt = {"blocks.1.attention_norm.weight": torch.zeros(32)}
        monkeypatch.setattr(torch, "save", lambda state, file: save({**state, **spoilt}, file))
    else:
        name = {"hf": "write_huggingface", "gguf": "write_gguf", "onnx": "write_onnx"}[format]
        monkeypatch.setattr(module, name, broken(name))
    with pytest.raises(ExportError, match=r"gives other logits for what was written, .* off where"):
        export(make(**LLAMA), TOKENIZER, tmp_path / "out", format=format)
    assert everything(tmp_path) == []


def test_an_earlier_export_outlives_a_failure_and_makes_room_for_another(tmp_path, monkeypatch):
    export(make(**LLAMA), TOKENIZER, tmp_path / "out", format="gguf")
    before = everything(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_gguf", lambda _: lambda _: torch.zeros(1))
        with pytest.raises(ExportError, match="gives logits of shape"):
            export(make(**LLAMA), TOKENIZER, tmp_path / "out", format="gguf")
    assert everything(tmp_path) == before
    export(make(**LLAMA), TOKENIZER, tmp_path / "out", format="pth")
    assert "out/model.pth" in everything(tmp_path)
    assert "out/model.gguf" not in everything(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_in_the_way_stays(tmp_path, format):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    with pytest.raises(CheckpointError, match="out is no exported model; choose another folder"):
        export(make(**LLAMA), TOKENIZER, tmp_path / "out", format=format)
    assert everything(tmp_path) == ["out", "out/thesis.txt"]
    with pytest.raises(CheckpointError, match=r"is to be a folder, .*; write .*story$"):
        export(make(**LLAMA), TOKENIZER, tmp_path / "story.gguf", format=format)
    gptlab.save(tmp_path / "model", make(**LLAMA), TOKENIZER)
    with pytest.raises(CheckpointError, match="model is no exported model"):
        export(make(**LLAMA), TOKENIZER, tmp_path / "model", format=format)


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may be larger, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, format):
    model = make(**{**LLAMA, "num_layers": 1, "embed_dim": 64})
    with room(60_000), pytest.raises(CheckpointError) as error:
        export(model, TOKENIZER, tmp_path / "out", format=format)
    assert str(error.value).startswith(f"{tmp_path / 'out'} can't be written: ")
    assert str(error.value).endswith("; make room on its disk")
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("format", "name", "extra"),
    [("gguf", "gguf", "gguf"), ("onnx", "onnxscript", "onnx"), ("onnx", "onnxruntime", "onnx")],
)
def test_a_missing_package_says_what_to_install(tmp_path, format, name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    expected = rf'needs the package {name}; run pip install "gptlab\[{extra}\]"'
    with pytest.raises(ExportError, match=expected):
        export(make(**LLAMA), TOKENIZER, tmp_path / "out", format=format)
    assert everything(tmp_path) == []


def test_without_transformers_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_installed", lambda: False)
    exported = export(make(**LLAMA), TOKENIZER, tmp_path / "out", format="hf")
    assert [parity.reader for parity in exported.parities] == ["gptlab's reader"]
    assert exported.notes == ("not tried with transformers, which is not installed",)


def test_a_tokenizer_that_transformers_reads_otherwise(tmp_path, monkeypatch):
    other, save = gptlab.train_bpe(texts=["a mat. " * 9], vocab_size=262), BPETokenizer.save
    monkeypatch.setattr(BPETokenizer, "save", lambda _, folder: save(other, folder))
    with pytest.raises(ExportError, match="the tokenizer of transformers gives other ids for"):
        export(make(**LLAMA), TOKENIZER, tmp_path / "out", format="hf")
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("format", "settings", "message"),
    [
        ("onnx", {"precision": "bf16"}, "ONNX graphs have numbers of 32 bits, not bfloat16"),
        ("hf", {"bits": 8}, "8 bits a weight are not written as hf; 8 are as gguf"),
        ("gguf", {"bits": 4}, "4 bits a weight are not written as gguf"),
    ],
)
def test_numbers_that_a_format_has_not(tmp_path, format, settings, message):
    with pytest.raises(ConfigError, match=message):
        export(make(**LLAMA), TOKENIZER, tmp_path / "out", format=format, **settings)
    assert everything(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_quantized_models_and_foreign_tokenizers_are_refused(tmp_path, format):
    with pytest.raises(
        ConfigError, match="has 4 bits a weight, as gptlab alone reads them; export"
    ):
        export(quantize(make(**LLAMA), bits=4), TOKENIZER, tmp_path / "out", format=format)
    small = make(**{**LLAMA, "vocab_size": 269})
    with pytest.raises(ConfigError, match="tokenizer has 270 tokens, but the model knows 269"):
        export(small, TOKENIZER, tmp_path / "out", format=format)
    assert everything(tmp_path) == []


def test_numbers_that_do_not_fit_into_16_bits(tmp_path):
    model = make(**LLAMA)
    with torch.no_grad():
        model.norm.weight.fill_(1e6)
    with pytest.raises(ExportError, match="own logits are not finite in these numbers; write it w"):
        export(model, TOKENIZER, tmp_path / "out", format="pth", precision="fp16")


def test_rows_are_of_all_lengths_and_all_ids():
    config = ModelConfig(**{**BASE, "seq_len": 300})
    rows = list(token_rows(config))
    assert sorted({row.shape[1] for row in rows}) == [1, 2, 7, 150, 300]
    assert {int(i) for row in rows for i in row.flatten()} == set(range(270))
    for seq_len in (1, 2, 3):
        rows = list(token_rows(ModelConfig(**{**BASE, "seq_len": seq_len})))
        assert {row.shape[1] for row in rows} == {1, 2, seq_len} - ({2} if seq_len == 1 else set())


@pytest.mark.parametrize("vocab_size", [32_000, 50_000, 50_257, 1])
def test_no_id_comes_again_before_all_have_come(vocab_size):
    config = ModelConfig(**{**BASE, "vocab_size": vocab_size, "seq_len": 1024})
    ids = [int(i) for row in token_rows(config) for i in row.flatten()]
    assert len(set(ids)) == min(len(ids), vocab_size)


@pytest.mark.parametrize(
    "write",
    [
        lambda model, folder: export(model, TOKENIZER, folder, format="pth"),
        lambda model, folder: write_huggingface(folder, model, TOKENIZER),
    ],
    ids=["export", "write_huggingface"],
)
def test_models_with_adapters_or_a_head_are_refused(tmp_path, write):
    lora = LoRA(rank=2, alpha=4, modules=("o_proj",), vocab_size=270, fingerprint="")
    adapted, headed = make(**LLAMA), make(**LLAMA)
    add_lora(adapted, lora, seed=0)
    add_head(headed, HeadSettings(head="regression"))
    for model, words in ((adapted, "has adapters beside"), (headed, "has a regression head")):
        with pytest.raises(ConfigError, match=words):
            write(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_number_is_no_parity():
    model = make(**BASE)
    with pytest.raises(ExportError, match="it gives other logits for what was written, nan off"):
        require_parity(model, lambda tokens: model(tokens) * torch.nan, reader="it", share=1e-4)
    with pytest.raises(ExportError, match=r"it gives logits of shape \(2, 1, 269\) instead of"):
        require_parity(model, lambda tokens: model(tokens)[..., 1:], reader="it", share=1e-4)
