"""Curves of runs as pictures."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptlab.config import nearest
from gptlab.errors import ConfigError
from gptlab.training.metrics import FILE, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Split = Literal["train", "eval"]
Scale = Literal["step", "tokens", "epoch", "elapsed_seconds"]

FORMATS = (".pdf", ".png", ".svg")

# File: records, fields, what they are called.
_CURVES: tuple[tuple[str, Split, tuple[str, ...], str], ...] = (
    ("train_loss.png", "train", ("loss",), "training loss (nats per token)"),
    ("val_loss.png", "eval", ("loss",), "evaluation loss (nats per token)"),
    ("val_perplexity.png", "eval", ("perplexity",), "evaluation perplexity"),
    ("val_accuracy.png", "eval", ("token_accuracy", "sequence_accuracy"), "share that is right"),
    ("learning_rate.png", "train", ("learning_rate",), "learning rate"),
    ("gradient_norm.png", "train", ("gradient_norm",), "norm of the gradient, before clipping"),
)
_FEW_POINTS = 30


def plot_run(folder: Path) -> None:
    """Draw losses, perplexity, accuracies, learning rate and gradient norm, each that a run has."""
    records = read_metrics(folder)
    for name, split, metrics, label in _CURVES:
        curves = {
            metric: points
            for metric in metrics
            if (points := _points(records, metric, split=split, over="step"))
        }
        if not curves:
            continue
        figure, axes = _canvas()
        for metric, points in curves.items():
            _draw(axes, points, label=metric.replace("_", " "))
        if len(metrics) > 1:
            axes.legend()
        axes.set(xlabel="step", ylabel=label, title=folder.name)
        _save(figure, folder / name)


def plot_runs(
    folders: Sequence[Path],
    output: Path,
    *,
    metric: str = "loss",
    split: Split = "eval",
    over: Scale = "step",
) -> None:
    """Draw one field of several runs' metrics as curves of one picture.

    Args:
        folders: The runs.
        output: The picture; its ending says the format: .png, .pdf or .svg.
        metric: A field of `metrics.jsonl` that is a number.
        split: Whether of the records on training or on evaluation.
        over: What is counted from left to right.

    Raises:
        ConfigError: A run has no metrics or not this one, or the format is another one.
    """
    if output.suffix not in FORMATS:
        raise ConfigError(f"{output} ends in none of {', '.join(FORMATS)}; give it such a name")
    figure, axes = _canvas()
    for folder, label in zip(folders, _labels(folders), strict=True):
        records = read_metrics(folder)
        points = _points(records, metric, split=split, over=over)
        if not points:
            raise _nothing(folder, records, metric, split=split, over=over)
        _draw(axes, points, label=label)
    axes.set(xlabel=over.replace("_", " "), ylabel=f"{split} {metric.replace('_', ' ')}")
    if len(folders) > 1:
        axes.legend()
    _save(figure, output)


def _canvas() -> "tuple[Figure, Axes]":
    # Slow to import, and a run can well begin without it.
    from matplotlib.figure import Figure

    # Margins that are found out anew for each picture would double the time that it takes.
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots(gridspec_kw={"left": 0.11, "right": 0.97, "bottom": 0.13, "top": 0.92})
    axes.grid(alpha=0.3)
    return figure, axes


def _points(
    records: list[dict[str, Any]], metric: str, *, split: str, over: str
) -> list[tuple[float, float]]:
    return [
        (record[over], record[metric])
        for record in records
        if record["split"] == split
        and _is_number(record.get(metric))
        and _is_number(record.get(over))
    ]


def _draw(axes: "Axes", points: list[tuple[float, float]], *, label: str | None = None) -> None:
    marker = "o" if len(points) < _FEW_POINTS else None
    axes.plot([x for x, _ in points], [y for _, y in points], marker=marker, label=label)


def _save(figure: "Figure", path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, dpi=120, format=path.suffix[1:])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _labels(folders: Sequence[Path]) -> list[str]:
    """The runs' names, or their paths where two have one name."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _nothing(
    folder: Path, records: list[dict[str, Any]], metric: str, *, split: str, over: str
) -> ConfigError:
    """The error for a run of which nothing can be drawn."""
    if not (folder / FILE).is_file():
        return ConfigError(f"{folder} has no {FILE}; give the folder of a run")
    known = {
        kind: {name for record in records if record["split"] == kind for name in record}
        for kind in ("train", "eval")
    }
    if not known[split]:
        return ConfigError(f"{folder} has no {split} records yet; let it train on, or leave it out")
    for name in (metric, over):
        elsewhere = [kind for kind in known if name in known[kind]]
        if name not in known[split] and elsewhere:
            return ConfigError(
                f"the {split} records of {folder} have no '{name}'; write --split {elsewhere[0]}"
            )
        if name not in known[split]:
            numbers = known[split] - {"split"}
            return ConfigError(f"{folder} has no '{name}'; {nearest(name, numbers)}")
    return ConfigError(f"'{metric}' is no number in the {split} records of {folder}; take another")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
