"""What is wrong with a Transformer's run is one line, before any training."""

import errno
import gzip
import os
import sys
from pathlib import Path

import pytest

from gptlab.cli.train import main
from gptlab.tokenizer import BPETokenizer, train_bpe

LINES = "".join(f"{'abc'[n % 3] * (n % 5 + 1)}\t{n}\n" for n in range(30))
RUN = {
    "architecture": "transformer",
    "train_data": "pairs.tsv",
    "experiment_name": "tiny",
    "tgt_vocab_size": 264,
    "seq_len": 16,
    "embed_dim": 8,
    "num_layers": 1,
    "n_heads": 2,
    "batch_tokens": 40,
    "max_steps": 2,
    "device": "cpu",
    "compile": "off",
}


def flags(**given):
    """Those of the run, with changes; None is a switch."""
    return [f"--{k}" if v is None else f"--{k}={v}" for k, v in ({**RUN, **given}).items()]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.tsv").write_text(LINES)
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "blank.tsv").write_text("\n\n")
    (tmp_path / "binary.tsv").write_bytes(b"a\tb\n\0\1\2\xff" * 40)
    (tmp_path / "latin.tsv").write_bytes("a\té\n".encode("latin-1"))
    (tmp_path / "tabless.tsv").write_text("a\tb\nab\n")
    (tmp_path / "half.tsv").write_text("a\tb\nab\t\n")
    (tmp_path / "one.tsv").write_text("a\tb\n")
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(LINES.encode())[:-20])
    (tmp_path / "text.txt").write_text("a\nb\n")
    (tmp_path / "text.en").write_text("a\nb\nc\n")
    (tmp_path / "rows.jsonl").write_text('{"source": "a", "tgt": "b"}\n')
    (tmp_path / "endless").mkdir()
    train_bpe(texts=["ab"], vocab_size=260).save("endless")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"train_data": "none.tsv"}, "none.tsv"),
        ({"train_data": "none.txt"}, "none.txt does not exist; give a file of pairs"),
        ({"train_data": "empty.tsv"}, "empty.tsv"),
        ({"train_data": "blank.tsv"}, "blank.tsv has no pairs; give a file with some"),
        ({"train_data": "binary.tsv"}, "binary.tsv"),
        ({"train_data": "latin.tsv"}, "latin.tsv, line 1"),
        ({"train_data": "cut.tsv.gz"}, "cut.tsv.gz"),
        ({"train_data": "."}, ". is a folder; name the files"),
        ({"train_data": "pairs.tsv:0.5"}, "pairs.tsv:0.5"),
        ({"train_data": "tabless.tsv"}, "tabless.tsv, line 2 has 1 column(s), but the target is"),
        ({"train_data": "half.tsv"}, "half.tsv, line 2: the target is empty; fill it in, or"),
        ({"train_data": "one.tsv"}, "there are too few rows to hold a part of them out: 1; give"),
        ({"train_data": "text.txt"}, "text.txt has no pairs that can be read; give a file that"),
        ({"train_data": "rows.jsonl"}, "rows.jsonl, line 1: field 'target' is missing in"),
        ({"eval_data": "none.tsv"}, "none.tsv"),
        (
            {"train_data": "text.txt", "target_data": "text.en"},
            "text.txt has 2 lines, but text.en has 3; give files in which each line is the",
        ),
        ({"target_data": "text.en"}, "pairs.tsv has rows, but parallel files are plain texts"),
        (
            {"eval_target_data": "text.en"},
            "eval_target_data is text.en, but nothing says where its sources are; write --eval_d",
        ),
        ({"tokenizer": "nowhere"}, "there is no tokenizer at nowhere: check the path, or"),
        ({"src_tokenizer": "nowhere"}, "there is no tokenizer at nowhere: check the path, or"),
        (
            {"src_tokenizer": "endless", "src_vocab_size": 300},
            "tokenizer endless has 260 tokens, but src_vocab_size is 300; leave --src_vocab_size",
        ),
        (
            {"src_vocab_size": 300, "share_embeddings": None},
            "share_embeddings needs one vocabulary, but src_vocab_size is 300 and",
        ),
        ({"head": "regression"}, "head is not for --architecture transformer; leave it"),
        ({"chat_template": "chatml"}, "chat_template is not for --architecture transf"),
        ({"micro_batch_size": 2}, "micro_batch_size is not for --architecture transfor"),
        ({"lora_rank": 2}, "lora_rank is not for --architecture transformer; leave it out"),
        ({"architecture": "gpt"}, "batch_tokens is not for --architecture gpt; leave it"),
        ({"architecture": "t5"}, "architecture is 't5'"),
        ({"batch_tokens": 6}, "batch_tokens is 6, but the longest pair alone has"),
        ({"seq_len": 1}, "not one of"),
        ({"gradient_accumulation_steps": 99}, "gradient_accumulation_steps is 99, which makes 99"),
        ({"attention": "flash"}, "attention is 'flash'"),
        ({"check": None}, "the reference run is fixed, so it takes no architecture"),
    ],
)
def test_a_mistake_is_one_line(files, command, given, line):
    code, out, err = command(main, *flags(**given))
    assert err.startswith(f"gptlab-train: {line}"), err
    assert len(err.splitlines()) == 1
    assert code == 2
    assert "step" not in out
    assert not Path("runs/tiny").exists()


def test_a_tokenizer_without_an_end_is_refused(files, command, monkeypatch):
    monkeypatch.setattr(BPETokenizer, "eos_id", None)
    code, _, err = command(main, *flags())
    assert code == 2
    assert err.startswith("gptlab-train: the tokenizer has no token that ends a sequence, which")


def test_scores_without_sacrebleu_are_refused_before_anything_is_read(files, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    code, out, err = command(main, *flags(train_data="none.tsv", eval_translations=5))
    assert (code, out) == (2, "")
    assert err == (
        'gptlab-train: BLEU and chrF need sacrebleu; pip install "gptlab[bleu]", or leave them '
        "out\n"
    )


def test_a_full_disk_is_one_line(files, command, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = command(main, *flags())
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "No space left on device" in err


def test_the_size_of_a_batch_is_said_in_one_way(files, command):
    argv = [*flags(train_data="none.tsv"), "--preset", "tiny"]
    assert "none.tsv" in command(main, *argv)[2], "a preset's is superseded by a flag"
    err = command(main, *argv, "--batch_size", 8)[2]
    assert err.startswith("gptlab-train: --batch_size and --batch_tokens say how large a batch is")
