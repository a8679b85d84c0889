import json

import pytest

from gptlab.cli.plot import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A working directory with two runs in `runs` and one elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "runs/b", "elsewhere/c"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        records = [
            {"step": step, "split": split, "loss": 1.0, "tokens": step, "learning_rate": 0.1}
            for step in (1, 2)
            for split in ("train", "eval")
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def test_runs_by_name_and_by_folder(runs, command):
    code, out, err = command(main, "a", "b", "elsewhere/c")
    assert (code, out, err) == (0, "curves.png\n", "")
    assert (runs / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_where_and_what(runs, command):
    argv = ["runs/a", "b", "--metric", "learning_rate", "--split", "train", "--over", "tokens"]
    code, out, _ = command(main, *argv, "--output", "pictures/rate.svg")
    assert (code, out) == (0, "pictures/rate.svg\n")
    assert "learning rate" in (runs / "pictures" / "rate.svg").read_text()
    assert command(main, "c", "--runs_dir", "elsewhere", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "there is no run to draw; name one or several, as in gptlab-plot a b"),
        (
            ["a", "d"],
            "there is no run 'd', neither in runs nor as a folder; runs in runs: a, b",
        ),
        (["a", "--metric", "perplexity"], "runs/a has no 'perplexity'; "),
        (["a", "--split", "test"], "split is 'test', but "),
        (["a", "--over", "days"], "over is 'days', but "),
        (["a", "--output", "a.gif"], "a.gif ends in none of .pdf, .png, .svg; "),
        (["a", "--output", "runs"], "runs ends in none of "),
    ],
)
def test_a_mistake_is_one_line_and_no_picture(runs, command, argv, line):
    code, out, err = command(main, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"gptlab-plot: {line}")
    assert len(err.splitlines()) == 1
    assert not list(runs.glob("*.png"))
