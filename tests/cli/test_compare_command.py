import json
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.compare import main
from gptlab.training import loop

SETTINGS = """
train_data = "text.txt"
tokenizer = "tok"
embed_dim = 16
num_layers = 1
n_heads = 2
seq_len = 16
batch_size = 2
max_steps = 3
sample_length = 0
device = "cpu"
precision = "fp32"
"""


@pytest.fixture
def recipes(workplace, monkeypatch) -> Path:
    """A working directory with two files of settings."""
    monkeypatch.setattr(loop, "plot_run", lambda _folder: None)
    Path("slow.toml").write_text(SETTINGS + "learning_rate = 1e-9\n")
    # With tables, and what a comparison decides by itself.
    Path("fast.toml").write_text(
        f"[train]\n{SETTINGS}learning_rate = 1e-2\nseed = 9\nexperiment_name = 'mine'\n"
    )
    return workplace


def test_two_recipes_over_seeds(recipes, command):
    code, out, err = command(main, "slow.toml", "fast.toml", "--seeds", 2)
    assert (code, err) == (0, "")
    saved = json.loads((recipes / "compare.json").read_text())
    assert out.splitlines()[-2:] == [saved["verdict"], "in numbers: compare.json"]
    assert [line.partition(":")[0] for line in out.splitlines()[:4]] == [
        "runs/slow-seed0",
        "runs/fast-seed0",
        "runs/slow-seed1",
        "runs/fast-seed1",
    ]
    assert saved["measures"]["at the end"]["difference"] < 0
    assert gptlab.load("runs/fast-seed1")
    assert not (recipes / "runs" / "mine").exists()


def test_a_run_is_repeated_with_other_seeds(recipes, command):
    assert command(main, "slow.toml", "fast.toml", "--seeds", 2)[0] == 0
    argv = ["fast-seed1", "slow.toml", "--seeds", 2, "--output", "again.json"]
    code, _, err = command(main, *argv)
    assert (code, err) == (0, "")
    first, again = (
        json.loads((recipes / name).read_text()) for name in ("compare.json", "again.json")
    )
    former, repeated = first["values"]["at the end"], again["values"]["at the end"]
    assert repeated["fast-seed1"] == former["fast"]
    assert repeated["slow"] == former["slow"]


def test_two_models_by_name_and_by_path(recipes, command):
    assert command(main, "slow.toml", "fast.toml", "--seeds", 2)[0] == 0
    flags = ["--device", "cpu", "--precision", "fp32"]
    code, out, err = command(main, "slow-seed0", "runs/fast-seed0/best", *flags)
    assert (code, err) == (0, "")
    saved = json.loads((recipes / "compare.json").read_text())
    assert (saved["a"], saved["b"], saved["paired_by"]) == (
        "slow-seed0",
        "fast-seed0/best",
        "window",
    )
    assert out.splitlines()[-2] == saved["verdict"]


def test_verbose_shows_the_runs(recipes, command):
    code, out, _ = command(main, "slow.toml", "fast.toml", "--seeds", 2, "--verbose")
    assert code == 0
    assert out.count("done after 3 steps") == 4


def test_an_interruption_says_how_to_go_on(recipes, command, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gptlab.evaluation.compare", interrupted)
    code, _, err = command(main, "slow.toml", "fast.toml", "--seeds", 2)
    assert (code, err) == (130, "stopped; the same command goes on with the runs there are\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "it takes two to compare, not 0; write gptlab-compare A B, with --seeds 5 to"),
        (["slow.toml"], "it takes two to compare, not 1"),
        (["slow.toml", "fast.toml"], "slow.toml is a file of settings; write --seeds 5 to train"),
        (["slow.toml", "fast.toml", "--seeds", 1], "seeds is 1, but an interval needs at least 2"),
        (["slow.toml", "fast.toml", "--seeds", 0], "seeds is '0', but "),
        (["slow.toml", "slow.toml", "--seeds", 2], "both are called 'slow'"),
        (["slow.toml", "none", "--seeds", 2], "there is no run 'none', neither in runs nor as a"),
        (["slow.toml", "bad.toml", "--seeds", 2], "there is no setting 'learning_rat'; did you"),
        (["none", "slow"], "none does not exist; give a run"),
        (
            ["slow.toml", "fast.toml", "--seeds", 2, "--output", "."],
            ". is a folder; write --output with the name of a file",
        ),
        (
            ["slow.toml", "fast.toml", "--seeds", 2, "--output", "fast.toml"],
            "fast.toml is read by the same command, and would be lost; choose another --output",
        ),
    ],
)
def test_a_mistake_is_one_line_and_no_run(recipes, command, argv, line):
    Path("bad.toml").write_text(SETTINGS + "learning_rat = 1\n")
    code, out, err = command(main, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"gptlab-compare: {line}")
    assert len(err.splitlines()) == 1
    assert not list(recipes.glob("runs/[!.]*"))
    assert not (recipes / "compare.json").exists()
