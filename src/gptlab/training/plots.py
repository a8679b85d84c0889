"""Curves of a run as pictures."""

import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gptlab.training.metrics import read_metrics


def plot_run(folder: Path) -> None:
    """Draw `train_loss.png`, `val_loss.png` and `val_perplexity.png` from a run's metrics."""
    records = read_metrics(folder)
    train = [record for record in records if record["split"] == "train"]
    evaluation = [record for record in records if record["split"] == "eval"]
    _plot(folder / "train_loss.png", train, "loss", "training loss (nats per token)")
    _plot(folder / "val_loss.png", evaluation, "loss", "evaluation loss (nats per token)")
    _plot(folder / "val_perplexity.png", evaluation, "perplexity", "evaluation perplexity")


def _plot(path: Path, records: list[dict[str, Any]], name: str, label: str) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    points = [(record["step"], record[name]) for record in records if record[name] is not None]
    marker = "o" if len(points) < 30 else None
    axes.plot([step for step, _ in points], [value for _, value in points], marker=marker)
    axes.set(xlabel="step", ylabel=label, title=path.parent.name)
    axes.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)
