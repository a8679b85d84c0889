import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.tokenize import main
from gptlab.tokenizer import SentencePieceTokenizer, trainer

SMALL = "aaaa bbbb\n" * 9


def test_the_result_and_a_sample_of_it(workplace, command):
    code, out, err = command(main, "--train", "text.txt", "--vocab_size", 280)
    result, statistics, cut = out.splitlines()
    tokenizer = gptlab.load_tokenizer("text")
    text = Path("text.txt").read_text()
    assert (code, err) == (0, "")
    assert tokenizer == gptlab.train_bpe("text.txt", vocab_size=280)
    assert re.fullmatch(
        r"text: 280 tokens from 1 file\(s\), 0\.0 MB in [\d.]+ s: [\d.]+ MB/s", result
    )
    assert statistics.startswith(f"{len(tokenizer.encode(text)):,} tokens for {len(text):,} bytes")
    assert cut.startswith("│The│ cat│")
    assert cut.count("│") == 61


def test_all_settings_reach_the_trainer(workplace, command):
    argv = [
        "--pattern",
        "gpt2",
        "--tie_break",
        "huggingface",
        "--special",
        "<|a,b|>",
        "--processes",
        1,
    ]
    code, _, _ = command(main, "--train", "text.txt", "--vocab_size", 275, *argv, "--special=<c>")
    names = ["<PAD>", "<UNK>", "<BOS>", "<EOS>", "<|a,b|>", "<c>"]
    expected = gptlab.train_bpe(
        "text.txt",
        vocab_size=275,
        pattern="gpt2",
        tie_break="huggingface",
        special_tokens=names,
    )
    assert code == 0
    assert gptlab.load_tokenizer("text") == expected
    assert expected != gptlab.train_bpe("text.txt", vocab_size=275, special_tokens=names)


def test_several_corpora_of_many_kinds(workplace, command):
    rows = [{"story": "cccc dddd"}, {"story": "eeee ffff"}]
    Path("rows.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (workplace / "books").mkdir()
    Path("books/a.txt").write_bytes(SMALL.encode() + b"\xff")
    argv = ["--train", "rows.jsonl.gz", "books", "--field", "story", "--errors", "replace"]
    code, out, _ = command(main, *argv, "--vocab_size", 270, "--output", "o")
    texts = [row["story"] for row in rows] + [SMALL + "\ufffd"]
    assert code == 0
    assert "270 tokens from 2 file(s)" in out
    assert "│cc│cc│ dd│dd│" in out
    assert gptlab.load_tokenizer("o") == gptlab.train_bpe(texts=texts, vocab_size=270)


def test_sentencepiece(workplace, command):
    argv = ["--type", "sentencepiece", "--model_type", "bpe", "--special", "<|user|>"]
    code, out, _ = command(main, "--train", "text.txt", "--vocab_size", 300, *argv)
    assert code == 0
    assert "│The│" in out
    tokenizer = gptlab.load_tokenizer("text")
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.encode("<|user|>", allowed_special="all") == [4]


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("books", "books_tokenizer"),
        ("my.data", "my.data_tokenizer"),
        ("notes.txt", "notes"),
        ("plain", "plain_tokenizer"),
        ("old.txt.gz", "old"),
        ("bare.gz", "bare_tokenizer"),
    ],
)
def test_without_an_output_it_goes_beside_the_text(workplace, command, text, folder):
    if text in ("books", "my.data"):
        Path(text).mkdir()
        Path(text, "a.txt").write_text(SMALL)
    else:
        data = SMALL.encode()
        Path(text).write_bytes(gzip.compress(data) if text.endswith(".gz") else data)
    code, out, _ = command(main, "--train", text, "--vocab_size", 262)
    assert code == 0
    assert out.startswith(f"{folder}: ")
    assert Path(folder, "tokenizer.json").is_file()


def test_the_folder_one_stands_in(workplace, command, monkeypatch):
    (workplace / "books").mkdir()
    (workplace / "books" / "a.txt").write_text(SMALL)
    monkeypatch.chdir(workplace / "books")
    code, out, _ = command(main, "--train", ".", "--vocab_size", 262)
    assert code == 0
    assert out.startswith(f"{workplace / 'books_tokenizer'}: ")


@pytest.mark.filterwarnings("default")
def test_what_a_folder_lacks_and_a_text_can_not_give_is_said_in_a_line_each(workplace, command):
    (workplace / "books").mkdir()
    Path("books/a.txt").write_text(SMALL)
    Path("books/b.bin").write_bytes(b"\0")
    code, out, err = command(main, "--train", "books", "--vocab_size", 999)
    left_out, unreachable = err.splitlines()
    assert code == 0
    assert left_out == (
        "gptlab-tokenize: warning: 1 file(s) left out that are binary, damaged or not UTF-8"
    )
    assert unreachable.startswith("gptlab-tokenize: warning: vocab_size=999 can't be reached: ")
    assert f"{gptlab.load_tokenizer('books_tokenizer').vocab_size} tokens from 1 file(s)" in out


def test_a_trained_tokenizer_is_not_overwritten_unless_told(workplace, command):
    before = Path("tok/tokenizer.json").read_bytes()
    argv = ["--train", "text.txt", "--vocab_size", "264", "--output", "tok"]
    code, _, err = command(main, *argv)
    assert code == 2
    assert "--overwrite" in err
    assert Path("tok/tokenizer.json").read_bytes() == before
    assert command(main, *argv, "--overwrite")[0] == 0
    assert Path("tok/tokenizer.json").read_bytes() != before


@pytest.mark.parametrize("file", ["notes.txt", "tokenizer.model", "model.safetensors"])
def test_only_a_tokenizer_of_its_kind_is_replaced(workplace, command, file):
    folder = workplace / "text"
    folder.mkdir()
    if file == "model.safetensors":
        gptlab.load_tokenizer("tok").save(folder)
    (folder / file).touch()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, err = command(main, "--train", "text.txt", "--vocab_size", 262, "--overwrite")
    assert code == 2
    assert "is not replaced" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_empty_folder_is_filled(workplace, command):
    (workplace / "text").mkdir()
    assert command(main, "--train", "text.txt", "--vocab_size", 262)[0] == 0
    assert gptlab.load_tokenizer("text").vocab_size == 262


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_an_unwritable_folder(workplace, command):
    (workplace / "locked").mkdir(mode=0o500)
    code, _, err = command(main, "--train", "text.txt", "--output", "locked/tok")
    assert code == 2
    assert "locked" in err


def test_no_work_is_done_for_an_output_that_can_not_be_written(workplace, command, monkeypatch):
    monkeypatch.setattr(trainer, "count_chunks", pytest.fail)
    code, _, err = command(main, "--train", "text.txt", "--output", "text.txt/tok")
    assert code == 2
    assert err.count("\n") == 1
    assert "text.txt" in err


@pytest.fixture
def training_in_workers(workplace):
    """Starts the command, whose forked workers do with each batch what they are told."""
    rows = "".join(json.dumps({"text": f"the cat ran {n} times"}) + "\n" for n in range(30))
    Path("rows.jsonl").write_text(rows)

    def start(work: str) -> subprocess.Popen[str]:
        script = (
            "import os, sys, time\n"
            "from gptlab.cli.tokenize import main\n"
            "from gptlab.tokenizer import counting\n"
            "def work(counter, batch):\n"
            f"    print(os.getpid(), flush=True); {work}\n"
            "counting._BatchCounter.__call__ = work\n"
            "counting._BATCH_CHARACTERS = 10\n"
            "sys.argv = ['x', '--train', 'rows.jsonl', '--processes', '2']\n"
            "main()\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


FORKS = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


@FORKS
def test_ctrl_c_ends_all_processes_with_one_line(training_in_workers):
    process = training_in_workers("time.sleep(0.2)")
    first = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "gptlab-tokenize: interrupted\n")
    for worker in {first.strip(), *out.split()}:
        assert not Path("/proc", worker).exists()
    assert not Path("rows").exists()


@FORKS
def test_a_killed_worker_is_one_line(training_in_workers):
    process = training_in_workers("os.kill(os.getpid(), 9)")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.fullmatch("gptlab-tokenize: a worker process was killed.*\n", err)
    assert not Path("rows").exists()


def test_rows_without_text_are_left_out_and_counted(workplace, command):
    Path("rows.jsonl").write_text('{"text": "hello hello"}\n{"text": \n{"other": 1}\n')
    code, out, err = command(main, "--train", "rows.jsonl", "--vocab_size", 262)
    assert code == 0
    assert out.startswith("rows: 262 tokens")
    assert err == "gptlab-tokenize: warning: 2 row(s) left out that have no text\n"
    Path("none.jsonl").write_text('{"other": 1}\n' * 3)
    code, _, err = command(main, "--train", "none.jsonl", "--vocab_size", 262)
    assert code == 2
    assert "has no field 'text'" in err


def test_only_files_that_are_meant_are_read(workplace, command):
    Path("src").mkdir()
    Path("src/a.py").write_text("hello hello")
    Path("src/b.txt").write_text("not this")
    argv = ["--train", "src", "--vocab_size", 262, "--include", "*.py"]
    code, out, _ = command(main, *argv)
    assert code == 0
    assert "from 1 file(s)" in out
