"""Any model is loaded, generates, is evaluated and imported by where it is."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import gptlab
from gptlab.checkpoint import load_tensors, verify
from gptlab.cli import eval as eval_command
from gptlab.cli import export as export_command
from gptlab.cli import generate, import_model, tokenize
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop import find_model, read_huggingface, write_huggingface
from gptlab.tokenizer import SentencePieceTokenizer
from gptlab.tokenizer.adapters.sentencepiece_trainer import train_sentencepiece
from interop.peers import save_peer

FLAGS = ["--device", "cpu"]


@pytest.fixture
def llama(workplace) -> Path:
    """A Llama with more rows than its tokenizer has ids, beside a text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=288,
        max_position_embeddings=32,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained("llama")
    gptlab.load_tokenizer("tok").save("llama")
    return workplace / "llama"


def test_load_gives_model_and_tokenizer(llama):
    model, tokenizer = gptlab.load(llama)
    assert (model.config.vocab_size, tokenizer.vocab_size) == (288, 270)
    assert not model.training
    assert find_model("llama") == Path("llama")


def test_commands_take_its_folder(llama, command):
    code, out, err = command(
        generate.main,
        "--model_path",
        "llama",
        "--prompt",
        "The cat",
        "--length",
        3,
        "--seed",
        1,
        *FLAGS,
    )
    assert (code, err) == (0, "model: llama\n")
    assert out.startswith("The cat")
    code, out, err = command(eval_command.main, "llama", "--data", "text.txt", *FLAGS)
    assert (code, err) == (0, "")
    assert "nats per token" in out
    code, _, err = command(eval_command.main, "llama", *FLAGS)
    assert code == 2
    assert "lies in no run" in err


def test_its_weights_in_fewer_bits(llama, command):
    (llama / "model.safetensors").rename(llama / "model-00001-of-00001.safetensors")
    names = [*load_tensors(llama / "model-00001-of-00001.safetensors")]
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    argv = ["llama", "--quantize", "int8", "--output", "small", "--data", "text.txt", *FLAGS]
    code, out, err = command(export_command.main, *argv)
    assert (code, err) == (0, "")
    assert "written to" in out
    assert gptlab.load("small")[0].quantization is not None


def test_special_tokens_for_it(llama, command):
    argv = ["--tokenizer", "llama", "--special", "<USER>", "--output", "more"]
    code, _, err = command(tokenize.main, *argv)
    assert (code, err) == (0, "")
    model, tokenizer = gptlab.load("more")
    assert (model.config.vocab_size, tokenizer.vocab_size) == (288, 271)


def test_import(llama, command):
    argv = ["llama", "--output", "ours", "--precision", "bf16", "--seq_len", 20]
    code, out, err = command(import_model.main, *argv)
    assert (code, err) == (0, "")
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    found = {name.strip(): value.strip() for name, value in rows.items()}
    assert found == {
        "model": "llama",
        "written to": "ours",
        "family": "llama",
        "parameters": f"{read_huggingface('llama').num_parameters():,}",
        "dtype": "bfloat16",
        "context": "20 tokens",
        "vocabulary": "288",
        "tokenizer": "BPETokenizer, 270 ids",
    }
    verify(Path("ours"))
    model, tokenizer = gptlab.load("ours")
    ids = torch.randint(270, (2, 20))
    assert torch.equal(model(ids), read_huggingface("llama").bfloat16()(ids))
    assert tokenizer.fingerprint() == gptlab.load_tokenizer("tok").fingerprint()


def test_a_shorter_context_of_learned_positions(workplace, command):
    theirs = save_peer("gpt2", workplace / "gpt2")
    tokenizer = gptlab.BPETokenizer([], special_tokens=[])
    tokenizer.save("bytes")
    theirs.resize_token_embeddings(256)
    theirs.save_pretrained("gpt2")
    argv = ["gpt2", "--tokenizer", "bytes", "--output", "ours", "--seq_len", 9]
    assert command(import_model.main, *argv)[0] == 0
    model, _ = gptlab.load("ours")
    ids = torch.randint(256, (2, 9))
    assert torch.equal(model(ids), read_huggingface("gpt2")(ids))
    assert model.config.seq_len == len(model.position_embedding.weight) == 9


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "it takes one model to import, not 0"),
        (["llama"], "there is no folder to write; name one with --output"),
        (["llama", "--output", "llama"], "is no gptlab checkpoint; choose another folder"),
        (["llama", "--output", "x", "--seq_len", 33], "seq_len is 33, but the model's context is"),
        (["missing/folder/x", "--output", "x"], "missing/folder/x does not exist"),
        (["llama", "--output", "x", "--tokenizer", "none"], "there is no tokenizer at none"),
    ],
)
def test_import_refuses(llama, command, argv, words):
    code, out, err = command(import_model.main, *argv)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not Path("x").exists()


def test_a_tokenizer_that_is_too_large(llama):
    large = gptlab.BPETokenizer([], special_tokens=[f"<{i}>" for i in range(40)])
    with pytest.raises(
        ConfigError, match="has 296 tokens, but the model knows 288; give the tokenizer"
    ):
        gptlab.load(llama, tokenizer=large)


def test_a_tokenizer_whose_ids_stand_for_other_texts_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merges = ((b"a", b"t"), (b"i", b"n"))
    own, other = (gptlab.BPETokenizer([merge, (b"o", b"n")]) for merge in merges)
    config = gptlab.ModelConfig(vocab_size=264, embed_dim=8, num_layers=1, n_heads=2)
    gptlab.save("model", gptlab.GPT(config, seed=0), own)
    other.save("other")
    said = "1 of 262 ids of the tokenizer stand for other texts than in that of model, which knows"
    with pytest.warns(UserWarning, match=said):
        assert gptlab.load("model", tokenizer="other")[1] == other
    # Its own, and a longer one that begins as it does, are no others.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gptlab.load("model", tokenizer=own)
        gptlab.load("model", tokenizer=own.with_special_tokens(["<MORE>"]))


def test_a_folder_without_a_tokenizer(llama):
    for path in llama.iterdir():
        if not path.name.startswith(("config", "model")):
            path.unlink()
    with pytest.raises(CheckpointError, match="llama has no usable tokenizer"):
        gptlab.load(llama)
    assert gptlab.load(llama, tokenizer="tok")[1].vocab_size == 270


def test_sentencepiece_beside_a_file_that_is_no_byte_level_bpe(llama):
    for path in llama.glob("tok*"):
        path.unlink()
    train_sentencepiece([Path("text.txt").read_text()], vocab_size=285).save(llama)
    (llama / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    _, tokenizer = gptlab.load(llama)
    assert isinstance(tokenizer, SentencePieceTokenizer)


def test_transformers_opens_what_is_written(llama):
    model, tokenizer = gptlab.load(llama)
    write_huggingface("out", model, tokenizer)
    text = "The cat sat on the mat. The dog ran."
    assert AutoTokenizer.from_pretrained("out")(text)["input_ids"] == tokenizer.encode(text)
    document = json.loads(Path("out/config.json").read_text())
    assert document["eos_token_id"] == tokenizer.eos_id
    assert document["bos_token_id"] == tokenizer.bos_id
