import io
import json
import subprocess
import sys

import pytest

import gptlab
from gptlab.cli.train import main
from gptlab.training import lr_find, reference

SHAPE = ["--embed_dim", 16, "--num_layers", 1, "--n_heads", 2, "--seq_len", 16]
TINY = [*SHAPE, "--batch_size", 2, "--max_steps", 2]


def test_a_text_file_alone(workplace, command):
    code, out, _ = command(main, "--train_data", "text.txt", "--tgt_vocab_size", 270, *TINY)
    assert code == 0
    assert "trained a tokenizer of 270 tokens" in out
    assert "held out" in out
    assert (workplace / "runs" / "text" / "config.json").is_file()
    model, tokenizer = gptlab.load("runs/text")
    assert model.config.vocab_size == tokenizer.vocab_size == 270


def test_without_data_the_shipped_stories_appear(workplace, command):
    code, out, _ = command(main, *TINY)
    assert code == 0
    assert (workplace / "toy_data" / "tiny_sp" / "tokenizer.json").is_file()
    assert "nats per character above the floor" in out


def test_a_tokenizer_gives_the_vocabulary_unless_one_is_stated(workplace, command):
    argv = ["--train_data", "text.txt", "--tokenizer", "tok", *TINY]
    code, _, _ = command(main, *argv)
    assert code == 0
    assert (
        json.loads((workplace / "runs" / "text" / "config.json").read_text())["vocab_size"] == 270
    )
    code, _, err = command(main, *argv, "--tgt_vocab_size", 384)
    assert code == 2
    assert "write --tgt_vocab_size 270" in err


def test_an_experiment_is_never_overwritten_unasked(workplace, command):
    argv = ["--train_data", "text.txt", "--tokenizer", "tok", "--experiment_name", "one", *TINY]
    assert command(main, *argv)[0] == 0
    metrics = (workplace / "runs" / "one" / "metrics.jsonl").read_bytes()
    code, _, err = command(main, *argv)
    assert code == 2
    assert "--resume" in err
    assert "--overwrite" in err
    assert (workplace / "runs" / "one" / "metrics.jsonl").read_bytes() == metrics
    assert command(main, *argv, "--overwrite")[0] == 0
    code, out, _ = command(main, "--resume", "--experiment_name", "one", "--max_steps", 4)
    assert code == 0
    assert "after step 2" in out
    assert "done after 4 steps" in out


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_a_vocabulary_out_of_reach_is_said_once(workplace, command, flags):
    argv = ["--train_data", "text.txt", "--tgt_vocab_size", 5000, *flags, *TINY]
    code, out, err = command(main, *argv)
    lines = [line for line in (out + err).splitlines() if "can't be reached" in line]
    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith("gptlab-train: warning: vocab_size=5000 can't be reached")


def test_quiet_prints_nothing(workplace, command):
    argv = ["--train_data", "text.txt", "--tokenizer", "tok", "--quiet", *TINY]
    assert command(main, *argv) == (0, "", "")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--train_data", ""], "train_data"),
        (["--train_data", "text.txt", "--embed_dim", 100_000_000], "--embed_dim"),
        (["--train_data", "missing.txt"], "missing.txt"),
        (["--train_data", "empty.txt"], "empty.txt"),
        (["--train_data", "binary.txt"], "binary.txt"),
        (["--train_data", "latin1.txt"], "0xe9 at offset 3"),
        (["--train_data", "hollow"], "hollow"),
        (["--train_data", "short.txt"], "--seq_len"),
        (["--train_data", "text.txt", "--eval_data", "missing.txt"], "missing.txt"),
        (["--train_data", "text.txt", "--eval_data", "latin1.txt"], "latin1.txt"),
        (["--train_data", "text.txt", "--tokenizer", "missing"], "missing"),
        (["--train_data", "text.txt", "--tokenizer", "tok", "--tgt_vocab_size", "9"], "270"),
        (["--train_data", "text.txt", "--tokenizer_type", "other"], "tokenizer_type"),
        (["--train_data", "text.txt", "--tgt_vocab_size", "12"], "12"),
        (["--train_data", "text.txt", "--runs_dir", "text.txt"], "text.txt"),
        (["--train_data", "text.txt", "--device", "warp"], "warp"),
        (["--train_data", "text.txt", "--attention", "flash"], "flash"),
        (["--train_data", "text.txt", "--epochs", "0"], "epochs"),
        (["--train_data", "text.txt", "--experiment_name", "a/b"], "a/b"),
        (["--train_data", "text.txt", "--dropout", "1"], "dropout"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_no_run(workplace, command, argv, named):
    (workplace / "empty.txt").touch()
    (workplace / "binary.txt").write_bytes(b"\0\1\2\3")
    (workplace / "latin1.txt").write_bytes("abcé".encode("latin1"))
    (workplace / "short.txt").write_text("A short text.\n")
    (workplace / "hollow").mkdir()
    code, out, err = command(main, *TINY, *argv)
    assert code == 2
    assert err.splitlines()[-1].startswith("gptlab-train: ")
    assert named in err.splitlines()[-1]
    assert "Traceback" not in err + out
    assert not [run for run in workplace.glob("runs/*") if not run.name.startswith(".")]


def test_debug_shows_the_traceback(workplace, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gptlab-train", "--train_data", "missing.txt", "--debug"])
    with pytest.raises(gptlab.GptlabError):
        main()


def test_the_output_may_lack_a_letter(workplace, monkeypatch, command):
    (workplace / "text.txt").write_text("žluťoučký kůň\n" * 200)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    monkeypatch.setattr("sys.stdout", stream)
    assert command(main, "--train_data", "text.txt", "--tgt_vocab_size", 270, *TINY)[0] == 0
    assert "step 2: evaluation loss" in stream.buffer.getvalue().decode("latin-1")


def test_a_reader_that_left_does_not_stop_training(workplace):
    script = f"{sys.executable} -m gptlab.cli.train --train_data text.txt --tokenizer tok"
    subprocess.run(f"{script} {' '.join(map(str, TINY))} | true", shell=True, check=True)
    assert list((workplace / "runs" / "text").glob("last-2"))


@pytest.mark.parametrize("preset", ["5", '["tiny"]'])
def test_a_preset_that_is_no_name_is_one_line(workplace, command, preset):
    (workplace / "run.toml").write_text(f"preset = {preset}\n")
    code, _, err = command(main, "--config", "run.toml")
    assert code == 2
    assert "there is no preset" in err


def test_a_check_and_a_search_exclude_each_other(command):
    code, _, err = command(main, "--check", "--lr_find")
    assert code == 2
    assert "--lr_find and --check exclude each other" in err


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--learning_rate", 1], "takes no learning_rate; leave them out (it takes activation_"),
        (["--preset", "tiny"], "takes no batch_size, embed_dim, "),
        (["--device", "warp"], "warp"),
    ],
)
def test_a_check_takes_what_says_how_to_compute(workplace, command, argv, named):
    code, out, err = command(main, "--check", *argv)
    assert (code, out) == (2, "")
    assert named in err
    assert not (workplace / "runs").exists()


def test_a_search_suggests_a_learning_rate_and_leaves_no_run(workplace, command):
    argv = ["--train_data", "text.txt", "--tokenizer", "tok", "--experiment_name", "one", *TINY]
    code, out, err = command(main, "--lr_find", *argv, "--batch_size", 8, "--device", "cpu")
    assert (code, err) == (0, "")
    assert "--learning_rate " in out
    assert [run.name for run in (workplace / "runs").glob("[!.]*")] == ["one-lr_find"]


def test_a_search_that_finds_nothing_exits_with_1(command, monkeypatch, tmp_path):
    nothing = lr_find.LearningRateSearch(tmp_path, (), None)
    monkeypatch.setattr(lr_find, "find_learning_rate", lambda _: nothing)
    assert command(main, "--lr_find", "--quiet") == (1, "", "")


@pytest.fixture
def checked(monkeypatch):
    """Has `--check` find the curve so many deviations away; the settings it was called with."""

    def make(deviations):
        given = []
        worst = reference.Point("eval", 50, mean=2.0, deviation=0.1, seed_0=2.1)
        found = reference.ReferenceCheck(deviations, worst, 2.2, 0.1, 0.05)
        monkeypatch.setattr(
            reference, "check_reference", lambda config: given.append(config) or found
        )
        return given

    return make


@pytest.mark.parametrize(("deviations", "expected"), [(2.0, 0), (4.5, 1)])
def test_a_check_says_and_exits_with_its_verdict(checked, command, deviations, expected):
    given = checked(deviations)
    code, out, err = command(main, "--check", "--precision", "fp32", "--micro_batch_size", 4)
    assert (code, err) == (expected, "")
    assert f"{deviations} deviations from the mean of 10 seeds" in out
    assert given[0].model_fields_set == {"precision", "micro_batch_size"}
    assert command(main, "--check", "--quiet") == (expected, "", "")


def test_the_other_processes_of_a_job_leave_the_verdict_to_the_first(command, monkeypatch):
    monkeypatch.setattr(reference, "check_reference", lambda _: None)
    assert command(main, "--check") == (0, "", "")
