import json

import matplotlib.image
import pytest
from matplotlib.axes import Axes

from gptlab.errors import ConfigError
from gptlab.training.plots import plot_run, plot_runs

CURVES = {"gradient_norm", "learning_rate", "train_loss", "val_loss", "val_perplexity"}


@pytest.fixture
def make_run(tmp_path):
    """Writes a run of a few records on training and two evaluations."""

    def make(name: str, *, slope: float = 1.0, **changes: object):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        records = [
            {"step": step, "split": "train", "loss": slope / step, "tokens": 100 * step,
             "learning_rate": 0.1, "gradient_norm": 1.5, "elapsed_seconds": 0.5 * step}
            for step in range(1, 40)
        ] + [
            {"step": step, "split": "eval", "loss": slope / step, "tokens": 100 * step,
             "perplexity": 2.0, "bits_per_byte": None, "note": "text", "elapsed_seconds": 1.0}
            for step in (20, 40)
        ]  # fmt: skip
        lines = (json.dumps({**record, **changes}) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text("".join(lines))
        return folder

    return make


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Every curve: its points and its label."""
    curves = []
    plot = Axes.plot

    def remember(self, x, y, **style):
        curves.append((list(zip(x, y, strict=True)), style["label"]))
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", remember)
    return curves


def test_a_picture_for_each_curve_of_a_run(make_run):
    folder = make_run("a")
    plot_run(folder)
    assert {path.stem for path in folder.glob("*.png")} == CURVES
    assert len(list(folder.iterdir())) == len(CURVES) + 1
    image = matplotlib.image.imread(folder / "train_loss.png")
    assert image.shape == (480, 840, 4)


def test_what_was_not_measured_is_not_drawn(make_run, tmp_path):
    folder = make_run("a", perplexity=None, gradient_norm=None)
    plot_run(folder)
    assert {path.stem for path in folder.glob("*.png")} == CURVES - {
        "gradient_norm",
        "val_perplexity",
    }
    (tmp_path / "empty").mkdir()
    plot_run(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())


def test_several_runs_in_one_picture(make_run, tmp_path, drawn):
    folders = [make_run("a"), make_run("b", slope=2.0)]
    plot_runs(folders, tmp_path / "curves.png")
    assert drawn == [
        ([(20, 1 / 20), (40, 1 / 40)], "a"),
        ([(20, 2 / 20), (40, 2 / 40)], "b"),
    ]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("over", "first"), [("step", 1), ("tokens", 100), ("elapsed_seconds", 0.5)]
)
def test_a_field_over_steps_tokens_or_time(make_run, tmp_path, drawn, over, first):
    plot_runs([make_run("a")], tmp_path / "c.png", metric="gradient_norm", split="train", over=over)
    ((points, _),) = drawn
    assert points[0] == (first, 1.5)
    assert len(points) == 39


def test_runs_of_one_name_are_told_apart(make_run, tmp_path, drawn):
    folders = [make_run("x/a"), make_run("y/a")]
    plot_runs(folders, tmp_path / "curves.png")
    assert [label for _, label in drawn] == [str(folder) for folder in folders]


@pytest.mark.parametrize(
    ("ending", "magic"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")]
)
def test_the_ending_says_the_format(make_run, tmp_path, ending, magic):
    output = tmp_path / f"curves{ending}"
    plot_runs([make_run("a")], output)
    assert output.read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"metric": "los"}, "RUN has no 'los'; did you mean 'loss'?"),
        ({"metric": "perplexity", "split": "train"}, "have no 'perplexity'; write --split eval"),
        ({"metric": "gradient_norm"}, "have no 'gradient_norm'; write --split train"),
        ({"metric": "note"}, "'note' is no number in the eval records of RUN; take another"),
        ({"metric": "bits_per_byte"}, "'bits_per_byte' is no number in the eval records of RUN"),
        ({"over": "epoch"}, "RUN has no 'epoch'; known:"),
    ],
)
def test_what_can_not_be_drawn_is_one_line(make_run, tmp_path, given, line):
    folder = make_run("a")
    with pytest.raises(ConfigError) as error:
        plot_runs([folder], tmp_path / "curves.png", **given)
    assert line.replace("RUN", str(folder)) in str(error.value)
    assert not (tmp_path / "curves.png").exists()


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"has no metrics.jsonl; give the folder of a run"):
        plot_runs([tmp_path], tmp_path / "curves.png")


def test_a_run_without_evaluations_yet(make_run, tmp_path):
    with pytest.raises(ConfigError, match="has no eval records yet; let it train on"):
        plot_runs([make_run("a", split="train")], tmp_path / "curves.png")


@pytest.mark.parametrize("name", ["curves.gif", "curves", "png"])
def test_an_unknown_format(make_run, tmp_path, name):
    with pytest.raises(ConfigError, match=r"ends in none of .pdf, .png, .svg; give it such a name"):
        plot_runs([make_run("a")], tmp_path / name)
