import ast
import io
import sys
from types import SimpleNamespace

import pytest

import gptlab
from gptlab.cli.tokenize import main


def test_encode_and_decode(workplace, command):
    code, out, err = command(main, "--tokenizer", "tok", "--encode", "The cat é")
    ids, statistics, cut = out.splitlines()
    tokenizer = gptlab.load_tokenizer("tok")
    assert (code, err) == (0, "")
    assert ast.literal_eval(ids) == tokenizer.encode("The cat é")
    assert statistics == "5 tokens for 10 bytes: 0.500 tokens per byte"
    assert cut == "│The│ cat│ │<C3>│<A9>│"
    code, out, _ = command(main, "--tokenizer", "tok", "--decode", ids)
    assert (code, out) == (0, "The cat é\n")


@pytest.fixture
def standard_input(monkeypatch):
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return give


@pytest.mark.parametrize("text", ["The cat\r\n\n", ""])
def test_a_text_from_standard_input(workplace, command, standard_input, text):
    standard_input(text.encode())
    code, out, _ = command(main, "--tokenizer", "tok", "--encode", "-")
    ids = ast.literal_eval(out.splitlines()[0])
    assert (code, gptlab.load_tokenizer("tok").decode(ids)) == (0, text)


def test_standard_input_that_is_no_text(workplace, command, standard_input):
    standard_input(b"caf\xe9")
    code, _, err = command(main, "--tokenizer", "tok", "--encode", "-")
    assert code == 2
    assert err.startswith(
        "gptlab-tokenize: standard input is not UTF-8 text (byte 0xe9 at offset 3)"
    )


def test_special_tokens_count_if_allowed(workplace, command):
    tokenizer = gptlab.load_tokenizer("tok")
    plain = command(main, "--tokenizer", "tok", "--encode", "cat<EOS>")[1]
    allowed = command(main, "--tokenizer", "tok", "--encode", "cat<EOS>", "--allow_special")[1]
    assert str(tokenizer.eos_id) not in plain.splitlines()[0]
    assert ast.literal_eval(allowed.splitlines()[0])[-1] == tokenizer.eos_id
    assert allowed.endswith("│<EOS>│\n")


def test_dropout_cuts_anew_and_a_seed_repeats_it(workplace, command):
    def encode(*argv):
        out = command(main, "--tokenizer", "tok", "--encode", "the cat ran away " * 9, *argv)[1]
        return ast.literal_eval(out.splitlines()[0])

    with_dropout = encode("--dropout", 0.5, "--seed", 3)
    assert encode("--dropout", 0.5, "--seed", 3) == with_dropout
    assert encode("--dropout", 0.5, "--seed", 4) != with_dropout
    assert len(encode()) < len(with_dropout) < len(encode("--dropout", 1))


@pytest.fixture
def mistaken_files(workplace, command):
    (workplace / "empty.txt").touch()
    (workplace / "binary.txt").write_bytes(b"\0\1\2\3")
    (workplace / "latin1.txt").write_bytes("é".encode("latin1"))
    (workplace / "hollow").mkdir()
    argv = ["--type", "sentencepiece", "--model_type", "bpe", "--vocab_size", 290]
    assert command(main, "--train", "text.txt", *argv, "--output", "sp")[0] == 0


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "nothing to do"),
        (["--train", "missing.txt"], "missing.txt"),
        (["--train", "text.txt", "missing.txt", "--output", "o"], "missing.txt"),
        (["--train", "text.txt", "latin1.txt"], "--output"),
        (["--train", ""], "train.0"),
        (["--train", "empty.txt"], "empty.txt"),
        (["--train", "binary.txt"], "binary.txt"),
        (["--train", "latin1.txt"], "latin1.txt"),
        (["--train", "hollow"], "hollow"),
        (["--train", "text.txt", "--vocab_size", "12"], "12"),
        (["--train", "text.txt", "--vocab_size", "260", "--special", "<|u|>"], "261"),
        (["--train", "text.txt", "--pattern", "gpt5"], "gpt5"),
        (["--train", "text.txt", "--tie_break", "highest"], "'lowest' or 'huggingface'"),
        (["--train", "text.txt", "--errors", "ignore"], "'strict' or 'replace'"),
        (["--train", "text.txt", "--processes", "0"], "processes"),
        (["--train", "text.txt", "--type", "tiktoken"], "--type sentencepiece"),
        (["--train", "text.txt", "--type", "sentencepiece", "--pattern", "gpt2"], "--pattern"),
        (["--train", "text.txt", "--model_type", "bpe"], "--type sentencepiece"),
        (["--train", "text.txt", "--type", "sentencepiece", "--vocab_size", 9], "vocab_size=9"),
        (["--train", "text.txt", "--vocab_size", 300, "--special", "<EOS>"], "<EOS>"),
        (["--train", "text.txt", "--tokenizer", "tok"], "take one out"),
        (["--tokenizer", "missing", "--encode", "a"], "missing"),
        (["--tokenizer", "text.txt", "--encode", "a"], "text.txt"),
        (["--tokenizer", "hollow", "--encode", "a"], "hollow"),
        (["--tokenizer", "tok", "--decode", "12"], "[1, 2]"),
        (["--tokenizer", "tok", "--decode", "[1, 'a']"], "[1, 2]"),
        (["--tokenizer", "tok", "--decode", "[270]"], "270"),
        (["--tokenizer", "tok", "--decode", "[-1]"], "-1"),
        (["--tokenizer", "tok", "--decode", "[1]", "--seed", 1], "--seed does nothing without"),
        (["--tokenizer", "tok", "--encode", "a", "--tokenizer_type", "tiktoken"], "tok"),
        (["--tokenizer", "tok", "--encode", "a", "--type", "other"], "other"),
        (["--tokenizer", "tok", "--encode", "a", "--dropout", -0.1], "-0.1"),
        (["--tokenizer", "tok", "--encode", "a", "--dropout", 1.5], "1.5"),
        (["--tokenizer", "sp", "--encode", "a", "--dropout", 0.5], "dropout=0.5"),
        (["--tokenizer", "tok", "--special", "<|u|>"], "--output"),
        (["--tokenizer", "tok", "--special", "<EOS>", "--output", "o"], "<EOS>"),
        (["--tokenizer", "tok", "--special", "<u>", "<u>", "--output", "o"], "<u>"),
        (["--tokenizer", "tok", "--special", "", "--output", "o"], "empty"),
        (["--tokenizer", "tok", "--special", "<u>", "--output", "text.txt"], "text.txt"),
        (["--tokenizer", "tok", "--special", "<u>", "--output", "text.txt/o"], "text.txt"),
        (["--tokenizer", "sp", "--special", "<u>", "--output", "o"], "SentencePieceTokenizer"),
        (["--tokenizer", "missing", "--special", "<u>", "--output", "o"], "missing"),
        (["--compare", "tok"], "--compare has tok alone"),
        (["--compare", "tok", "sp"], "sp holds no text file"),
        (["--compare", "missing", "text.txt"], "missing"),
        (["--compare", "tok", "missing.txt"], "missing.txt"),
        (["--compare", "tok", "text.txt", "--encode", "a"], "--compare stands for itself"),
        (
            ["--tokenizer", "tok", "--encode", "a", "--json"],
            "--json does nothing without --compare",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(mistaken_files, command, argv, named):
    code, out, err = command(main, *argv)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("gptlab-tokenize: ")
    assert named in err
    assert "Traceback" not in err + out
