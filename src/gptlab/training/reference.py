"""The reference curve: how the loss of a short, fixed run falls on a machine that is in order.

`reference_curves.json` holds the settings of the run and, at some of its steps, the mean and the
standard deviation of the loss over ten seeds; `benchmarks/reference_curves.py` makes it. A check
trains with seed 0 here and now, and compares.
"""

import getpass
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gptlab.config import TrainConfig
from gptlab.data import toy
from gptlab.errors import ConfigError
from gptlab.training.loop import TrainResult, train
from gptlab.training.metrics import read_metrics
from gptlab.training.precision import choose_arithmetic
from gptlab.training.session import say

REFERENCE_FILE = "reference_curves.json"
LIMIT = 4.0
"""Deviations from the mean up to which a loss lies in the band."""
ROUNDING = 0.01
"""Nats per token within which the same seed stays, in whatever way it is computed."""
CHOOSABLE = frozenset(
    {
        "activation_checkpointing",
        "attention",
        "compile",
        "deterministic",
        "device",
        "gradient_accumulation_steps",
        "loss_chunk",
        "micro_batch_size",
        "parallel",
        "precision",
        "quiet",
    }
)
"""Settings of a check: how and where the run is computed, not what is learned."""

Curve = Mapping[tuple[str, int], float]
"""Losses by split and step."""

_RUN = "reference"
_NAMES: Mapping[str, str] = {"train": "training", "eval": "evaluation"}


@dataclass(frozen=True)
class Point:
    """The loss at a step of the reference run, in nats per token."""

    split: str
    """`train`: the mean since the point before; `eval`: over the evaluation text."""
    step: int
    mean: float
    """Over the seeds."""
    deviation: float
    """The standard deviation over the seeds."""
    seed_0: float
    """Of seed 0 alone."""


@dataclass(frozen=True)
class Reference:
    """The reference run and its curve."""

    settings: Mapping[str, Any]
    """All that decides what is learned."""
    seeds: int
    """How many of them the points are about."""
    points: tuple[Point, ...]


@dataclass(frozen=True)
class ReferenceCheck:
    """Where a curve lies, as seen from the reference."""

    deviations: float
    """The largest distance from the mean over the seeds, in deviations; infinite where a loss is
    missing or not finite."""
    worst: Point
    """Where that is."""
    loss: float
    """The curve's own loss there."""
    from_seed_0: float
    """The largest distance from the curve of seed 0, in nats per token."""
    mean_from_seed_0: float
    """The mean distance from it."""

    @property
    def in_band(self) -> bool:
        """Whether the machine, and gptlab on it, compute as they should."""
        return self.deviations <= LIMIT


def check_reference(config: TrainConfig) -> ReferenceCheck | None:
    """Train the reference run with seed 0, in a temporary folder, and compare its curve.

    Of the processes of a job, the first one compares and the others get None.

    Args:
        config: How to compute: the device, the precision, the micro-batches and the like.

    Raises:
        ConfigError: `config` was given a setting that is part of the run itself.
        GptlabError: The run fails.
        KeyboardInterrupt: It was stopped.
    """
    reference = read_reference()
    given = {name: getattr(config, name) for name in sorted(config.model_fields_set)}
    if foreign := given.keys() - CHOOSABLE:
        raise ConfigError(
            f"the reference run is fixed, so it takes no {', '.join(sorted(foreign))}; leave them "
            f"out (it takes {', '.join(sorted(CHOOSABLE))})"
        )
    if not config.quiet and _is_first():
        settings = reference.settings
        say(
            f"training the reference run on {choose_arithmetic(config.device, config.precision)}: "
            f"{settings['max_steps']} steps of {settings['batch_size']} x {settings['seq_len']} "
            "tokens, which takes about 20 s on two processor cores"
        )
    with _folder() as folder:
        result = train_reference(reference.settings, folder, seed=0, **{**given, "quiet": True})
        if result.interrupted:
            raise KeyboardInterrupt
        if not _is_first():
            return None
        return compare_curve(read_curve(result.path), reference.points)


def read_reference() -> Reference:
    """The reference that is shipped with gptlab."""
    content = json.loads(resources.files("gptlab.training").joinpath(REFERENCE_FILE).read_text())
    return Reference(
        settings=content["settings"],
        seeds=content["seeds"],
        points=tuple(Point(**point) for point in content["points"]),
    )


def train_reference(settings: Mapping[str, Any], folder: Path, **changes: Any) -> TrainResult:
    """Train on the shipped stories, within `folder` alone, with `settings` and `changes`."""
    train_data, eval_data = toy.write_toy_corpus(folder)
    return train(
        TrainConfig(
            **{
                "train_data": str(train_data),
                "eval_data": str(eval_data),
                "runs_dir": str(folder / "runs"),
                "experiment_name": _RUN,
                "overwrite": True,
                **settings,
                **changes,
            }
        )
    )


def read_curve(run: Path) -> Curve:
    """The losses that `run` recorded; NaN where one was not finite."""
    return {
        (record["split"], record["step"]): math.nan if record["loss"] is None else record["loss"]
        for record in read_metrics(run)
    }


def compare_curve(curve: Curve, points: Sequence[Point]) -> ReferenceCheck:
    """Where `curve` lies at `points`."""
    losses = [curve.get((point.split, point.step), math.nan) for point in points]
    deviations = [
        _distance(loss, point.mean) / point.deviation
        for loss, point in zip(losses, points, strict=True)
    ]
    distances = [_distance(loss, point.seed_0) for loss, point in zip(losses, points, strict=True)]
    worst = max(range(len(points)), key=deviations.__getitem__)
    return ReferenceCheck(
        deviations=deviations[worst],
        worst=points[worst],
        loss=losses[worst],
        from_seed_0=max(distances),
        mean_from_seed_0=sum(distances) / len(distances),
    )


def verdict(check: ReferenceCheck, *, seeds: int) -> str:
    """`check` in words, as a few lines."""
    worst, name = check.worst, _NAMES[check.worst.split]
    band = "within: at most" if check.in_band else "left:"
    close = "no more" if check.from_seed_0 <= ROUNDING else "more"
    conclusion = "the loss falls here as it should"
    if not check.in_band:
        conclusion = (
            "the loss does not fall here as it should; see whether --precision fp32, --compile "
            "off, --attention reference or --device cpu changes that"
        )
    return "\n".join(
        (
            f"band     {band} {check.deviations:.1f} deviations from the mean of {seeds} seeds, "
            f"where {LIMIT:g} are allowed",
            f"worst    step {worst.step}: {name} loss {check.loss:.4f}, mean {worst.mean:.4f}",
            f"seed 0   at most {check.from_seed_0:.4f} nats per token from its curve as recorded "
            f"in fp32 on a CPU, {check.mean_from_seed_0:.4f} on average: {close} than rounding "
            "explains",
            conclusion,
        )
    )


def _distance(loss: float, other: float) -> float:
    return abs(loss - other) if math.isfinite(loss) else math.inf


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder, the same for all processes of a job."""
    port = os.environ.get("MASTER_PORT")
    if "RANK" not in os.environ or port is None:
        with tempfile.TemporaryDirectory(prefix="gptlab-check-") as name:
            yield Path(name)
        return
    folder = Path(tempfile.gettempdir(), f"gptlab-check-{getpass.getuser()}-{port}")
    try:
        yield folder
    finally:
        if _is_first():
            shutil.rmtree(folder, ignore_errors=True)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"
