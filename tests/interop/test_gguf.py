"""Files for llama.cpp say what the model is and how text is cut."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, quants
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab
from gptlab.config import ModelConfig
from gptlab.errors import ExportError
from gptlab.interop.export import export
from gptlab.interop.gguf_architecture import architecture_of
from gptlab.interop.gguf_file import halved, interleaved, read_gguf, rounded, tensors, write_gguf
from gptlab.interop.gguf_tokenizer import vocabulary
from gptlab.model import GPT
from gptlab.model.positions import rotary_frequencies
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.adapters import train_sentencepiece
from gptlab.tokenizer.adapters.tiktoken import TiktokenTokenizer
from gptlab.tokenizer.chunks.steps import NamedSplit, Split
from gptlab.tokenizer.formats.definition import AddedToken, Definition

TEXT = "The cat sat on the mat, and the dog ran to it. " * 20
# Words enough for pieces, too.
TEXTS = [TEXT, Path(json.__file__).read_text()]
TOKENIZER = gptlab.train_bpe(texts=[TEXT], vocab_size=270)
BASE = {"vocab_size": 270, "seq_len": 24, "embed_dim": 32, "num_layers": 2, "n_heads": 4}
LLAMA = {**BASE, "norm": "rmsnorm", "activation": "swiglu", "qk_norm": False}
CLASSIC = {**BASE, "activation": "gelu_tanh", "qk_norm": False, "bias": True}
STRETCH = {"rope_factor": 4.0, "rope_original_len": 8}
SHAPES = {
    "llama": ("llama", {**LLAMA, "n_kv_heads": 2}),
    "all biases": ("llama", {**LLAMA, "bias": True, "head_width": 16}),
    "linear": ("llama", {**LLAMA, "rope_scaling": "linear", "rope_factor": 2.0}),
    "llama3": ("llama", {**LLAMA, **STRETCH, "rope_scaling": "llama3"}),
    "llama3 with biases": (
        "llama",
        {**LLAMA, **STRETCH, "rope_scaling": "llama3", "qkv_bias": True},
    ),
    "yarn": ("llama", {**LLAMA, **STRETCH, "rope_scaling": "yarn"}),
    "yarn with a factor": (
        "llama",
        {**LLAMA, **STRETCH, "rope_scaling": "yarn", "rope_attention_factor": 1.3},
    ),
    "qwen2": ("qwen2", {**LLAMA, "qkv_bias": True, "tie_embeddings": True}),
    "qwen3": ("qwen3", {**LLAMA, "qk_norm": True, "head_width": 6, "n_kv_heads": 1}),
    "gpt2": ("gpt2", {**CLASSIC, "positions": "learned", "tie_embeddings": True}),
    "gpt2 without biases": ("gpt2", {**CLASSIC, "positions": "learned", "bias": False}),
    "neox": ("gptneox", {**CLASSIC, "parallel_residual": True, "rotary_share": 0.5}),
    "neox, tied": ("gptneox", {**CLASSIC, "tie_embeddings": True, "n_kv_heads": 2}),
}


def make(seed: int = 0, **changes: object) -> GPT:
    model = GPT(ModelConfig(**changes), seed=seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.manual_seed(seed))
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_every_architecture_reads_back(tmp_path, name):
    architecture, shape = SHAPES[name]
    model = make(**shape)
    exported = export(model, TOKENIZER, tmp_path / "out", format="gguf")
    assert exported.architecture == architecture
    found, tokens = read_gguf(exported.weights), torch.arange(24).view(1, -1) * 11
    torch.testing.assert_close(found(tokens), model(tokens), atol=2e-5, rtol=1e-5)
    # Nothing that is told to llama.cpp is left to its defaults.
    expected = model.config
    if name == "gpt2 without biases":
        expected = expected.replace(bias=True)
    if name == "neox, tied":
        expected = expected.replace(tie_embeddings=False)
    for setting in (
        "seq_len",
        "kv_heads",
        "head_dim",
        "hidden_dim",
        "rotary_dim",
        "bias",
        "qk_norm",
    ):
        assert getattr(found.config, setting) == getattr(expected, setting), setting
    for setting in ("tie_embeddings", "parallel_residual", "positions", "norm", "activation"):
        assert getattr(found.config, setting) == getattr(expected, setting), setting
    assert found.config.norm_eps == pytest.approx(expected.norm_eps)


def test_factors_of_llama3_are_those_of_the_frequencies(tmp_path):
    shape = {**LLAMA, **STRETCH, "rope_scaling": "llama3"}
    write_gguf(tmp_path / "m.gguf", make(**shape), TOKENIZER, type="F32")
    reader = GGUFReader(tmp_path / "m.gguf")
    (factors,) = (tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    plain = rotary_frequencies(ModelConfig(**LLAMA))
    stretched = rotary_frequencies(ModelConfig(**shape))
    np.testing.assert_allclose(plain.numpy() / factors, stretched.numpy(), rtol=1e-6)
    assert factors.max() == 4
    assert "llama.rope.scaling.type" not in reader.fields


def test_rotary_pairs_become_neighbours():
    heads, width = 3, 8
    rows = torch.arange(heads * width)
    pairs = interleaved(rows, heads=heads).view(heads, -1, 2)
    for head in range(heads):
        for i in range(width // 2):
            first = head * width + i
            assert pairs[head, i].tolist() == [first, first + width // 2]
    matrix = torch.randn(heads * width, 5)
    assert torch.equal(halved(interleaved(matrix, heads=heads), heads=heads), matrix)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-30, 1e-3, 1.0, 300.0]))
def test_8_bits_are_those_of_the_library(seed, size):
    generator = torch.Generator().manual_seed(seed)
    model = make(**LLAMA)
    with torch.no_grad():
        weight = size * torch.randn(32, 128, generator=generator)
        weight[0], weight[1, ::2] = 0, 0.5 * size
        model.blocks[0].feed_forward.down_proj.weight.copy_(weight)
    kind = quants.GGMLQuantizationType.Q8_0
    expected = quants.dequantize(quants.quantize(weight.numpy(), kind), kind)
    found = rounded(model, "Q8_0")["blocks.0.feed_forward.down_proj.weight"]
    # A product of rounded numbers may fall on either side of a half.
    limit = np.abs(weight.numpy()).reshape(32, -1, 32).max(-1).repeat(32, -1) / 120
    assert (np.abs(found.numpy() - expected) <= limit).all()
    assert (found.numpy() != expected).mean() < 0.01


def test_8_bits_and_what_does_not_divide(tmp_path):
    model = make(**{**LLAMA, "embed_dim": 48, "expansion_factor": 2})
    exported = export(model, TOKENIZER, tmp_path / "out", format="gguf", bits=8)
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(exported.weights).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_up.weight"] == "F16"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert exported.parities[0].bound == pytest.approx(1e-2 * exported.parities[0].largest_logit)


REFUSED = [
    (
        {},
        "activation is 'relu2', which llama.cpp does not have; train a model with --activation sw",
    ),
    (
        {"activation": "swiglu"},
        "norm is 'layernorm', which llama.cpp does not have with activation",
    ),
    ({**CLASSIC, "activation": "relu"}, "activation is 'relu', which llama.cpp does not have; tr"),
    (
        {**LLAMA, "norm_place": "post"},
        "norm_place is 'post', .* train a model with --norm_place pre",
    ),
    ({**CLASSIC, "norm": "rmsnorm"}, "norm is 'rmsnorm', .*; train a model with --norm layernorm,"),
    ({**CLASSIC, "qk_norm": True}, "qk_norm is True, .* with layernorm and GELU; .* --no_qk_norm"),
    ({**CLASSIC, "positions": "none"}, "positions is 'none', which llama.cpp does not have; train"),
    (
        {**LLAMA, "positions": "learned"},
        "positions is 'learned', .* with swiglu; .*--positions rope",
    ),
    ({**LLAMA, "logit_soft_cap": 3.0}, r"logit_soft_cap is 3\.0, .* no --logit_soft_cap"),
    ({**LLAMA, "parallel_residual": True}, "parallel_residual is True, .* with swiglu"),
    ({**LLAMA, "rotary_share": 0.5}, r"rotary_share is 0\.5, .*--rotary_share 1,"),
    ({**LLAMA, "qk_norm": True, "bias": True}, "bias is True, .* with qk_norm; .* --no_bias"),
    (
        {**LLAMA, **STRETCH, "qk_norm": True, "rope_scaling": "llama3"},
        "rope_scaling is 'llama3', which llama.cpp does not have in its 'qwen3' models; .* yarn or",
    ),
    (
        {**LLAMA, **STRETCH, "rope_scaling": "yarn", "rope_high_turns": 16},
        "rope_low_turns and rope_high_turns are 1 and 16, but llama.cpp stretches by yarn with 1 a",
    ),
    ({**CLASSIC, "head_width": 16}, "head_width is 16, .*; train a model with no --head_width"),
    (
        {**CLASSIC, "positions": "learned", "parallel_residual": True},
        "parallel_residual is True, .* with learned positions",
    ),
]


@pytest.mark.parametrize(("shape", "message"), REFUSED)
def test_what_llama_cpp_has_not_is_refused_by_name(tmp_path, shape, message):
    model = GPT(ModelConfig(**{**BASE, **shape}))
    with pytest.raises(ExportError, match=message) as error:
        export(model, TOKENIZER, tmp_path / "out", format="gguf")
    assert "onnx" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_a_window_ends_the_context(tmp_path, positions):
    model = make(**{**CLASSIC, "positions": positions, "window": 9})
    exported = export(model, TOKENIZER, tmp_path / "out", format="gguf")
    assert exported.notes == ("llama.cpp has no window: its context ends at 9 tokens",)
    found, tokens = read_gguf(exported.weights), torch.arange(9).view(1, -1)
    assert found.config.seq_len == 9
    torch.testing.assert_close(found(tokens), model(tokens), atol=2e-5, rtol=1e-5)
    with pytest.raises(ExportError, match=r"window is 9, which llama\.cpp does not have; train"):
        write_gguf(tmp_path / "m.gguf", model, TOKENIZER, type="F32")
    wide = make(**{**CLASSIC, "positions": positions, "window": 24})
    assert export(wide, TOKENIZER, tmp_path / "out", format="gguf").notes == ()


def test_gelu_is_said_to_be_another(tmp_path):
    shape = {**CLASSIC, "positions": "learned", "activation": "gelu"}
    exported = export(make(**shape), TOKENIZER, tmp_path / "out", format="gguf")
    assert "llama.cpp computes GELU by its tanh form" in exported.notes[0]


def test_every_tensor_is_written_once():
    for _, shape in SHAPES.values():
        model = make(**shape)
        names = [name for name, _ in tensors(model, architecture_of(model.config))]
        assert len(names) == len(set(names))


def keys_of(tokenizer, size=None):
    words = vocabulary(tokenizer, size=size or tokenizer.vocab_size)
    return {key.removeprefix("tokenizer.ggml."): value for key, value in words.keys.items()}, words


def test_words_of_a_byte_level_tokenizer():
    tokenizer = TOKENIZER.with_special_tokens(["<user>"])
    keys, words = keys_of(tokenizer, size=274)
    assert words.notes == ()
    assert (keys["model"], keys["pre"]) == ("gpt2", "dbrx")
    assert keys["tokens"][270:] == ["<user>", "[UNUSED271]", "[UNUSED272]", "[UNUSED273]"]
    # Normal, control and unused ones.
    assert keys["token_type"] == [1] * 266 + [3] * 5 + [5] * 3
    assert keys["merges"][0] == "t h" or len(keys["merges"]) == 10
    assert len(keys["merges"]) == 10
    assert (keys["bos_token_id"], keys["eos_token_id"]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert (keys["padding_token_id"], keys["unknown_token_id"]) == (266, 267)
    assert (keys["add_bos_token"], keys["add_eos_token"]) == (False, False)


def definition_of(**changes: object) -> Definition:
    parts = {**vars(TOKENIZER.definition), **changes}
    return Definition(**parts)


def test_names_of_split_patterns():
    gpt2 = gptlab.train_bpe(texts=[TEXT], vocab_size=262, pattern="gpt2")
    assert keys_of(gpt2)[0]["pre"] == "gpt-2"
    whole = BPETokenizer.from_definition(definition_of(ignore_merges=True))
    assert keys_of(whole)[0]["pre"] == "llama-bpe"
    twice = BPETokenizer.from_definition(definition_of(steps=TOKENIZER.definition.steps * 2))
    keys, words = keys_of(twice)
    assert keys["pre"] == "dbrx"
    assert words.notes == (
        "llama.cpp has no name for this tokenizer's split pattern and is told 'dbrx': it cuts some "
        "texts into other tokens",
    )
    (note,) = keys_of(BPETokenizer.from_definition(definition_of(normalizers=("NFC",))))[1].notes
    assert note == "llama.cpp does not normalise text (NFC): give it normalised text"


def test_tokens_that_are_always_looked_for_and_a_first_token():
    added = (*TOKENIZER.definition.added_tokens, AddedToken("<<", 270, special=False))
    frame = {
        "model": {"type": "BPE"},
        "post_processor": {
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel"},
                {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<BOS>"}}, {"Sequence": {"id": "A"}}],
                },
            ],
        },
    }
    keys, _ = keys_of(BPETokenizer.from_definition(definition_of(added_tokens=added, frame=frame)))
    assert keys["token_type"][270] == 4
    assert keys["add_bos_token"] is True


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_words_of_sentencepiece(tmp_path, kind):
    tokenizer = train_sentencepiece(TEXTS, vocab_size=360, model_type=kind)
    keys, words = keys_of(tokenizer)
    assert keys["model"] == {"bpe": "llama", "unigram": "t5"}[kind]
    assert keys["token_type"][:5] == [3, 2, 3, 3, 6]
    assert keys["tokens"][4] == "<0x00>"
    assert keys["scores"][-1] < 0
    assert (keys["add_space_prefix"], keys["remove_extra_whitespaces"]) == (False, False)
    assert [("<UNK>" in note) for note in words.notes] == ([] if kind == "bpe" else [True])
    export(make(**{**LLAMA, "vocab_size": 360}), tokenizer, tmp_path / "out", format="gguf")


def test_other_tokenizers_are_refused(monkeypatch):
    tokenizer = TiktokenTokenizer.__new__(TiktokenTokenizer)
    with pytest.raises(ExportError, match="a byte-level BPE or a SentencePiece model, not a Tikt"):
        vocabulary(tokenizer, size=3)


PROGRAMS = ("llama-completion", "llama-tokenize")
needs_llama_cpp = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason="needs llama.cpp's programs on the PATH"
)


# What is behind a text; without it, the program has ended before all was printed.
_PRINTED = b"\n\n"
_TRIES = 20


def run(program: str, model: Path, text: str, flags: str) -> bytes:
    file = model.parent / "prompt.txt"
    file.write_bytes(text.encode())
    command = [program, "-m", str(model), "-f", str(file), "--no-escape", *flags.split()]
    return subprocess.run(command, capture_output=True, check=True).stdout


@needs_llama_cpp
@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_goes_on_alike(tmp_path, name):
    model = make(1, **SHAPES[name][1])
    exported = export(model, TOKENIZER, tmp_path / "out", format="gguf")
    flags = "-n 12 --temp 0 -no-cnv --no-display-prompt --special --ignore-eos --no-warmup -t 1"
    cache = " -ctk f32 -ctv f32 -fa off"
    for _ in range(_TRIES):
        found = run("llama-completion", exported.weights, "The cat", flags + cache)
        if found.endswith(_PRINTED):
            break
    ids, text = TOKENIZER.encode("The cat"), b""
    for _ in range(12):
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        logits[[TOKENIZER.eos_id, TOKENIZER.pad_id]] = -torch.inf
        ids.append(int(logits.argmax()))
        # A zero ends a text there, and is not printed.
        text += TOKENIZER.token_bytes(ids[-1]).replace(b"\0", b"")
    assert found.startswith(text)


QWEN2 = Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FOREIGN = {
    "qwen2": {"steps": (QWEN2,)},
    "smollm": {"steps": (Split(r"\p{N}"), NamedSplit("gpt2"))},
    "llama-bpe": {"ignore_merges": True},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_patterns_of_others_have_names(name):
    tokenizer = BPETokenizer.from_definition(definition_of(**FOREIGN[name]))
    keys, words = keys_of(tokenizer)
    assert (keys["pre"], words.notes) == (name, ())


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["gpt4", "gpt2", "bpe", *FOREIGN])
def test_llama_cpp_cuts_text_alike(tmp_path, kind):
    if kind in FOREIGN:
        tokenizer = BPETokenizer.from_definition(definition_of(**FOREIGN[kind]))
    elif kind == "bpe":
        tokenizer = train_sentencepiece(TEXTS, vocab_size=360, model_type="bpe")
    else:
        tokenizer = gptlab.train_bpe(texts=[TEXT], vocab_size=300, pattern=kind)
    model = make(**{**LLAMA, "vocab_size": tokenizer.vocab_size})
    exported = export(model, tokenizer, tmp_path / "out", format="gguf")
    flags = "--ids --no-bos --no-parse-special --log-disable"
    for text in ("The  cat\n\n it's 12345 \n", "Größe, 世界 \U0001f600 e\u0301", "<EOS> x\t\r\ny"):
        found = run("llama-tokenize", exported.weights, text, flags)
        assert [int(i) for i in re.findall(rb"\d+", found)] == tokenizer.encode(text)
