"""gptlab-eval and gptlab-compare of Transformers, and what fits neither."""

import errno
import json
import sys
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.compare import main as compare
from gptlab.cli.eval import main
from gptlab.cli.plot import main as plot
from gptlab.training import files

FLAGS = ["--device", "cpu", "--precision", "fp32"]
PAIRS = "".join(f"{'abc'[n % 3] * (n % 4 + 1)}\t{n % 3} {n % 4}\n" for n in range(40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of Transformers and one of a GPT."""
    folder = tmp_path_factory.mktemp("runs")
    shape = {"seq_len": 12, "embed_dim": 8, "num_layers": 1, "n_heads": 2, "vocab_size": 262}
    usual = {**shape, "max_steps": 2, "device": "cpu", "compile": "off", "quiet": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("pairs.tsv").write_text(PAIRS)
        Path("text.txt").write_text("one two three\n" * 30)
        Path("named.jsonl").write_text('{"de": "a", "en": "0 0"}\n{"de": "bb", "en": "1 1"}\n')
        Path("a.en").write_text("a\nbb\n")
        Path("a.de").write_text(f"0 0\n{'1' * 30}\n")
        for name, seed in (("one", 0), ("two", 1)):
            gptlab.train(
                gptlab.TrainConfig(
                    architecture="transformer", train_data="pairs.tsv", experiment_name=name,
                    seed=seed, batch_tokens=60, learning_rate=0.01 * (1 + seed), **usual,
                )
            )  # fmt: skip
        gptlab.train(
            gptlab.TrainConfig(train_data="text.txt", experiment_name="gpt", batch_size=2, **usual)
        )
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def rows(out):
    return dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)


def test_the_pairs_of_the_run_without_writing(command):
    code, out, err = command(main, "one", *FLAGS, "--output", "eval.json")
    assert (code, err) == (0, "")
    saved = json.loads(Path("eval.json").read_text())
    pairs = saved["pairs"]
    assert rows(out)["pairs"].strip() == f"{pairs['pairs']} of the evaluation pairs of its run"
    assert f"{pairs['loss']:.4f} ± {pairs['loss_error']:.4f} nats per token" in out
    assert pairs["pairs_per_second"] > 0
    assert "written" not in saved
    assert "BLEU" not in out


def test_targets_are_written_scored_and_kept(command):
    code, out, err = command(main, "one", "--data", "pairs.tsv", *FLAGS, "--write", "w.txt",
                             "--max_new_tokens", 4, "--output", "eval.json")  # fmt: skip
    assert (code, err) == (0, "")
    assert len(Path("w.txt").read_text().splitlines()) == 40
    written = json.loads(Path("eval.json").read_text())["written"]
    assert written["targets"] == 40
    assert written["scores"]["signature"].startswith("nrefs:1|case:mixed|")
    assert {"exact match", "BLEU", "chrF", "signature", "written to"} <= rows(out).keys()


def test_a_full_disk_leaves_the_table(command, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "replace_text", full)
    code, out, err = command(main, "one", *FLAGS, "--write", "w.txt")
    assert (code, len(err.splitlines())) == (2, 1)
    assert {"loss", "exact match"} <= rows(out).keys()


def test_a_few_are_searched_for_with_beams(command):
    argv = ["one", "--translations", 3, "--num_beams", 2, "--length_penalty", 0.5, *FLAGS]
    code, out, err = command(main, *argv, "--write", "w.txt")
    assert (code, err) == (0, "")
    assert rows(out)["written"].strip().startswith("3 with 2 beams, ")
    assert len(Path("w.txt").read_text().splitlines()) == 3


def test_parallel_files_and_other_fields(command):
    code, out, _ = command(main, "one", "--data", "a.en", "--target_data", "a.de", *FLAGS)
    assert code == 0
    assert rows(out)["pairs"].strip() == "1 of a.en, 1 more left out as too long"
    argv = ["--data", "named.jsonl", "--src_field", "de", "--tgt_field", "en"]
    code, out, _ = command(main, "one", *argv, "--translations", "all", *FLAGS)
    assert code == 0
    assert rows(out)["written"].strip().startswith("2 greedily, ")


def test_without_sacrebleu_there_is_a_note(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    code, out, _ = command(main, "one", "--translations", 2, *FLAGS)
    assert code == 0
    note = 'not known without sacrebleu; pip install "gptlab[bleu]"'
    assert rows(out)["BLEU, chrF"].strip() == note


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["one", "--completion"], "--completion is for texts, and one is a Transformer; leave it"),
        (["one", "--field", "x"], "--field is for texts, and one is a Transformer; leave it out"),
        (
            ["one", "--humaneval", "named.jsonl", "--samples_only", "s"],
            "named.jsonl, line 1",
        ),
        (["gpt", "--translations", "all"], "--translations is for pairs, and gpt is none; leave"),
        (["gpt", "--write", "w.txt"], "--write is for pairs, and gpt is none; leave it out"),
        (["one", "--num_beams", "2"], "--num_beams is 2, but no targets are to be written; write"),
        (
            ["one", "--translations", "2", "--length_penalty", "0.5"],
            "--length_penalty is 0.5, but it ranks beams; write --num_beams too, or leave it out",
        ),
        (["one", "--target_data", "a.de"], "--target_data is a.de, but nothing says where its"),
        (["one", "--src_field", "en"], "--src_field is en, but the pairs are those of the run; wr"),
        (["one", "--max_new_tokens", "3"], "--max_new_tokens is 3, but nothing is to be written; "),
        (["one", "--translations", "some"], "translations is 'some'"),
        (["one", "--write", "w", "--output", "w"], "--write and --output are both w, which would"),
        (["one", "--write", "no/w.txt"], "no/w.txt can't be written"),
        (["one", "--data", "none.tsv"], "none.tsv"),
        (["one", "--data", "text.txt"], "text.txt has no pairs that can be read; give a file"),
        (["one", "--data", "named.jsonl"], "named.jsonl, line 1: field 'source' is missing"),
    ],
)
def test_a_mistake_is_one_line(command, argv, line):
    code, out, err = command(main, *argv, *FLAGS)
    assert err.startswith(f"gptlab-eval: {line}"), err
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_programs_are_not_for_a_transformer(command):
    problem = {
        "task_id": "Own/0", "prompt": "def f():\n", "entry_point": "f",
        "canonical_solution": "    return 1\n", "test": "def check(f):\n    assert f() == 1\n",
    }  # fmt: skip
    Path("p.jsonl").write_text(json.dumps(problem) + "\n")
    code, _, err = command(main, "one", "--humaneval", "p.jsonl", "--samples_only", "s", *FLAGS)
    assert code == 2
    assert err == "gptlab-eval: --humaneval is for texts, and one is a Transformer; leave it out\n"


def test_two_transformers_are_compared_by_their_pairs(command):
    code, _, err = command(compare, "one", "two", *FLAGS)
    assert (code, err) == (0, "")
    saved = json.loads(Path("compare.json").read_text())
    assert saved["paired_by"] == "pair"
    evaluated = command(main, "one", *FLAGS)[1]
    assert f"{saved['measures']['loss']['a']:.4f}" in rows(evaluated)["loss"]
    gptlab.save("other/last-1", gptlab.load("runs/one")[0], gptlab.BPETokenizer([]), step=1)
    code, _, err = command(compare, "one", "other/last-1", *FLAGS)
    assert code == 2
    assert "have different tokenizers, whose losses say nothing of each other; compare" in err
    code, _, err = command(compare, "one", "gpt", *FLAGS)
    assert code == 2
    assert len(err.splitlines()) == 1


def test_accuracies_are_curves(command, folder):
    argv = ["one", "two", "--metric", "sequence_accuracy", "--output", "c.svg"]
    assert command(plot, *argv)[0] == 0
    assert "eval sequence accuracy" in Path("c.svg").read_text()
    assert (folder / "runs" / "one" / "val_accuracy.png").exists()
