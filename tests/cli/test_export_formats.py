"""gptlab-export --format: folders for the tools of others."""

import re
import shutil
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.cli.export import main
from gptlab.cli.generate import main as generate
from gptlab.config import ModelConfig, TrainConfig
from gptlab.model import GPT
from gptlab.training import train

SHAPE = {"embed_dim": 16, "num_layers": 1, "n_heads": 2, "seq_len": 16, "qk_norm": False}
LLAMA = {**SHAPE, "norm": "rmsnorm", "activation": "swiglu"}


@pytest.fixture
def llama(workplace):
    """A checkpoint in the folder "llama" that llama.cpp has an architecture for."""
    tokenizer = gptlab.load_tokenizer("tok")
    gptlab.save("llama", GPT(ModelConfig(vocab_size=270, **LLAMA), seed=0), tokenizer)
    return workplace


@pytest.mark.parametrize(
    ("format", "weights", "readers"),
    [
        (
            "hf",
            "model.safetensors, .* kB, architecture LlamaForCausalLM",
            ["gptlab's reader", "tr"],
        ),
        ("gguf", "model.gguf, .* kB, architecture llama", ["gptlab's reader"]),
        ("pth", "model.pth, .* kB", ["PyTorch"]),
    ],
)
def test_a_folder_and_how_near_it_is(llama, command, format, weights, readers):
    argv = ["llama", "--format", format, "--output", "out"]
    code, out, err = command(main, *argv)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["model", "llama"]
    assert lines[1].split() == ["written", "to", "out"]
    name, _, text = lines[2].partition("  ")
    assert name == "weights"
    assert re.fullmatch(weights, text.strip())
    assert len(lines) == 3 + len(readers)
    for line, reader in zip(lines[3:], readers, strict=True):
        assert line.startswith("largest difference  ")
        assert f"read by {reader}" in line
        assert "allowed are 0.0001" in line
    # A second time, in the place of the first.
    assert command(main, *argv, "--precision", "bf16")[0] == 0


def test_a_run_by_its_name(trained, command):
    code, out, err = command(main, "tiny", "--format", "pth", "--output", "out")
    assert (code, err) == (0, "")
    assert "runs/tiny" in out
    model = gptlab.load("runs/tiny")[0]
    found = torch.load("out/model.pth", weights_only=True)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_state_dict_needs_no_shape(trained, command):
    command(main, "tiny", "--format", "pth", "--output", "out")
    argv = ["--prompt", "The cat", "--max_new_tokens", 6, "--temperature", 0, "--device", "cpu"]
    code, expected, _ = command(generate, "--model_path", "tiny", *argv)
    assert code == 0
    assert command(generate, "--model_path", "out/model.pth", *argv) == (0, expected, "")
    argv = ["--model_path", "out/model.pth", *argv]
    assert command(generate, *argv, "--tokenizer_path", "tok") == (0, expected, "")
    code, out, err = command(generate, *argv, "--n_heads", 4)
    assert (code, out) == (2, "")
    assert "--n_heads is 4, but out/model.pth has 2; write --n_heads 2, or leave it out" in err
    shutil.move("out/export.json", "kept.json")
    code, _, err = command(generate, *argv)
    assert code == 2
    assert "out/model.pth is a bare state dict; name its --tokenizer_path" in err
    Path("out/export.json").write_text(Path("kept.json").read_text().replace('"rope"', '"ropes"'))
    code, _, err = command(generate, *argv)
    assert code == 2
    assert "out/export.json is damaged; export the model again" in err


NEW = ["--output", "new"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["tiny", *NEW, "--format", "gguf"], "activation is 'relu2', which llama.cpp does not hav"),
        (["llama", *NEW, "--format", "safetensors"], "format is 'safetensors', but it should be"),
        (["llama", "--format", "gguf"], "there is no folder to write; name one with --output"),
        (["llama", "--format", "gguf", "--output", "llama"], "--output llama is the model itself;"),
        (["llama", "--format", "gguf", "--output", "tok"], "tok is no exported model; choose anot"),
        (["llama", "--format", "gguf", "--output", "a.gguf"], "a.gguf is to be a folder, in which"),
        (["none", *NEW, "--format", "pth"], "none does not exist; give a run, a checkpoint folder"),
        (
            ["llama", *NEW, "--format", "gguf", "--quantize", "int4"],
            "4 bits a weight are not written as gguf; 8 are as gguf, 8 and 4 as gptlab",
        ),
        (
            ["llama", *NEW, "--format", "gguf", "--quantize", "int8", "--group_size", 4],
            "--group_size is for --format gptlab; leave it out",
        ),
        (
            ["llama", *NEW, "--format", "pth", "--data", "text.txt"],
            "--data is for --format gptlab; leave it out",
        ),
        (
            ["llama", *NEW, "--format", "onnx", "--precision", "fp16"],
            "ONNX graphs have numbers of 32 bits, not float16; write --precision fp32",
        ),
        (
            ["small", *NEW, "--format", "hf"],
            "the model has 8 bits a weight, as gptlab alone reads them; export the one it was",
        ),
    ],
)
def test_a_mistake_is_one_line(llama, trained, command, argv, line):
    model, tokenizer = gptlab.load("llama")
    gptlab.save("small", gptlab.quantize(model), tokenizer)
    before = sorted(Path().iterdir())
    code, out, err = command(main, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"gptlab-export: {line}")
    assert len(err.splitlines()) == 1
    assert sorted(Path().iterdir()) == before


def test_adapters_alone_and_on_their_base_again(trained, command):
    config = TrainConfig(
        init_from="tiny", train_data="text.txt", lora_rank=2, max_steps=2, batch_size=4,
        experiment_name="adapted", device="cpu", precision="fp32", quiet=True,
    )  # fmt: skip
    train(config)
    code, out, err = command(main, "adapted", "--format", "adapter", "--output", "alone")
    assert (code, err) == (0, "")
    assert "adapter.safetensors, " in out
    assert not (Path("alone") / "model.safetensors").exists()
    argv = ["--prompt", "The cat", "--length", 8, "--temperature", 0, "--device", "cpu"]
    texts = []
    for model in (["adapted"], ["tiny", "--adapter", "alone"], ["tiny", "--adapter", "adapted"]):
        code, out, _ = command(generate, "--model_path", *model, *argv)
        assert code == 0
        texts.append(out)
    assert texts[0] == texts[1] == texts[2]
    code, _, err = command(main, "tiny", "--format", "adapter", "--output", "none")
    assert code == 2
    assert "has no adapters; train some with --lora_rank" in err
    code, _, err = command(generate, "--model_path", "adapted", "--adapter", "alone", *argv)
    assert code == 2
    assert "were trained on another model; give the one" in err
    flags = ["--format", "adapter", "--precision", "bf16", "--output", "x"]
    code, _, err = command(main, "adapted", *flags)
    assert code == 2
    assert "adapters stay as they were trained; leave --precision out" in err
