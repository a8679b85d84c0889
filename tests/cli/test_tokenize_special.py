from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.cli.tokenize import main

NAMES = ["<|user|>", "<a, b>"]


@pytest.fixture
def run(workplace):
    """A folder of one checkpoint, and its model."""
    config = gptlab.ModelConfig(vocab_size=270, embed_dim=8, n_heads=2, num_layers=1, seq_len=8)
    model = gptlab.GPT(config, seed=0)
    gptlab.save("run/best-7", model, gptlab.load_tokenizer("tok"))
    return model


def test_a_tokenizer_gets_more_special_tokens(workplace, command):
    argv = ["--tokenizer", "tok", "--special", *NAMES, "--output", "new"]
    code, out, _ = command(main, *argv, "--encode", "<|user|>cat", "--allow_special")
    extended = gptlab.load_tokenizer("tok").with_special_tokens(NAMES)
    assert code == 0
    assert gptlab.load_tokenizer("new") == extended
    assert out.startswith("new: 272 tokens; <|user|> is 270, <a, b> is 271\n[270, ")


@pytest.mark.parametrize("source", ["run", "run/best", "run/best-7"])
def test_a_model_grows_with_its_tokenizer(run, command, source):
    argv = ["--tokenizer", source, "--special", *NAMES, "--output", "new"]
    code, out, _ = command(main, *argv)
    model, tokenizer = gptlab.load("new")
    assert (code, out) == (
        0,
        "new: 272 tokens and a model that has them; <|user|> is 270, <a, b> is 271\n",
    )
    assert tokenizer == gptlab.load_tokenizer("tok").with_special_tokens(NAMES)
    assert model.config == run.config.replace(vocab_size=272)
    tokens = torch.tensor([tokenizer.encode("The cat")])
    assert torch.equal(model(tokens)[..., :270], run(tokens))


def test_a_models_folder_is_not_overwritten_unless_told(run, command):
    argv = ["--tokenizer", "run", "--special", "<u>", "--output", "run/best-7"]
    assert command(main, *argv)[0] == 2
    assert gptlab.load("run")[0].config.vocab_size == 270
    assert command(main, *argv, "--overwrite")[0] == 0
    assert gptlab.load("run")[0].config.vocab_size == 271


@pytest.mark.parametrize("output", ["tok", "books"])
def test_a_model_replaces_nothing_but_a_model(run, command, output):
    Path("books").mkdir()
    Path("books/a.txt").write_text("text")
    argv = ["--tokenizer", "run", "--special", "<u>", "--output", output, "--overwrite"]
    code, _, err = command(main, *argv)
    assert code == 2
    assert f"{output} is no gptlab checkpoint" in err
    assert Path("books/a.txt").read_text() == "text"


def test_a_tokenizer_does_not_replace_a_model(run, command):
    argv = ["--tokenizer", "tok", "--special", "<u>", "--output", "run/best-7", "--overwrite"]
    code, _, err = command(main, *argv)
    assert code == 2
    assert "run/best-7 holds a model" in err
    assert gptlab.load("run")[0].config.vocab_size == 270


def test_a_damaged_model_is_named(run, command):
    Path("run/best-7/model.safetensors").write_bytes(b"damaged")
    code, _, err = command(main, "--tokenizer", "run", "--special", "<u>", "--output", "new")
    assert code == 2
    assert "model.safetensors" in err
    assert not Path("new").exists()
