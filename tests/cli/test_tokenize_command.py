import ast
import os

import pytest

from gptlab.cli.tokenize import main


def test_train_encode_and_decode(workplace, command):
    code, out, _ = command(main, "--train", "text.txt", "--vocab_size", 280)
    assert code == 0
    assert "280 tokens" in out
    assert (workplace / "text" / "tokenizer.json").is_file()
    code, out, _ = command(main, "--tokenizer", "text", "--encode", "The cat é")
    ids = ast.literal_eval(out.splitlines()[0])
    assert code == 0
    assert "tokens per byte" in out
    assert "|The" in out
    code, out, _ = command(main, "--tokenizer", "text", "--decode", ids)
    assert (code, out) == (0, "The cat é\n")


def test_a_folder_of_texts_and_a_named_output(workplace, command):
    (workplace / "books").mkdir()
    (workplace / "books" / "a.txt").write_text("aaaa bbbb\n" * 9)
    code, _, _ = command(main, "--train", "books", "--vocab_size", 264, "--output", "o")
    assert code == 0
    assert (workplace / "o" / "merges.txt").is_file()
    code, _, _ = command(main, "--train", "books", "--vocab_size", 264)
    assert code == 0
    assert (workplace / "books_tokenizer" / "merges.txt").is_file()


def test_the_folder_one_stands_in(workplace, command, monkeypatch):
    (workplace / "books").mkdir()
    (workplace / "books" / "a.txt").write_text("aaaa bbbb\n" * 9)
    monkeypatch.chdir(workplace / "books")
    code, out, _ = command(main, "--train", ".", "--vocab_size", 264)
    assert code == 0
    assert (workplace / "books_tokenizer" / "merges.txt").is_file()
    assert out.startswith(str(workplace / "books_tokenizer"))


def test_a_trained_tokenizer_is_not_overwritten_unless_told(workplace, command):
    before = (workplace / "tok" / "tokenizer.json").read_bytes()
    argv = ["--train", "text.txt", "--vocab_size", "264", "--output", "tok"]
    code, _, err = command(main, *argv)
    assert code == 2
    assert "--overwrite" in err
    assert (workplace / "tok" / "tokenizer.json").read_bytes() == before
    code, _, _ = command(main, *argv, "--overwrite")
    assert code == 0
    assert (workplace / "tok" / "tokenizer.json").read_bytes() != before


def test_only_a_tokenizer_is_replaced(workplace, command):
    (workplace / "notes.txt").write_text("aaaa bbbb\n" * 9)
    (workplace / "notes").mkdir()
    argv = ["--train", "notes.txt", "--vocab_size", "262", "--overwrite"]
    code, _, err = command(main, *argv)
    assert code == 2
    assert "is no tokenizer" in err
    assert not any((workplace / "notes").iterdir())


def test_a_folder_with_a_dot_keeps_its_name(workplace, command):
    (workplace / "my.data").mkdir()
    (workplace / "my.data" / "a.txt").write_text("aaaa bbbb\n" * 9)
    assert command(main, "--train", "my.data", "--vocab_size", 262)[0] == 0
    assert (workplace / "my.data_tokenizer" / "vocab.json").is_file()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "nothing to do"),
        (["--train", "missing.txt"], "missing.txt"),
        (["--train", "empty.txt"], "empty.txt"),
        (["--train", "binary.txt"], "binary.txt"),
        (["--train", "latin1.txt"], "latin1.txt"),
        (["--train", "hollow"], "hollow"),
        (["--train", "text.txt", "--vocab_size", "12"], "12"),
        (["--train", "text.txt", "--pattern", "gpt5"], "gpt5"),
        (["--tokenizer", "missing", "--encode", "a"], "missing"),
        (["--tokenizer", "text.txt", "--encode", "a"], "text.txt"),
        (["--tokenizer", "hollow", "--encode", "a"], "hollow"),
        (["--tokenizer", "tok", "--decode", "12"], "[1, 2]"),
        (["--tokenizer", "tok", "--decode", "[1, 'a']"], "[1, 2]"),
        (["--tokenizer", "tok", "--decode", "[270]"], "270"),
        (["--tokenizer", "tok", "--decode", "[-1]"], "-1"),
        (["--tokenizer", "tok", "--encode", "a", "--tokenizer_type", "tiktoken"], "tok"),
        (["--tokenizer", "tok", "--encode", "a", "--tokenizer_type", "other"], "other"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(workplace, command, argv, named):
    (workplace / "empty.txt").touch()
    (workplace / "binary.txt").write_bytes(b"\0\1\2\3")
    (workplace / "latin1.txt").write_bytes("é".encode("latin1"))
    (workplace / "hollow").mkdir()
    code, out, err = command(main, *argv)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("gptlab-tokenize: ")
    assert named in err
    assert "Traceback" not in err + out


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_an_unwritable_folder(workplace, command):
    (workplace / "locked").mkdir(mode=0o500)
    code, _, err = command(main, "--train", "text.txt", "--output", "locked/tok")
    assert code == 2
    assert "locked" in err


def test_output_under_a_file(workplace, command):
    code, _, err = command(main, "--train", "text.txt", "--output", "text.txt/tok")
    assert code == 2
    assert err.count("\n") == 1
    assert "text.txt" in err
