"""A learning rate for a run, found by a short one in which the rate grows at each step."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gptlab.config import TrainConfig
from gptlab.config.learning import usual_rate
from gptlab.errors import ConfigError
from gptlab.model.head import Head
from gptlab.training.beginning import choose_computation
from gptlab.training.determinism import deterministic
from gptlab.training.files import replace_text
from gptlab.training.memory import explained_memory
from gptlab.training.objective import Forward
from gptlab.training.ranks import joined
from gptlab.training.session import Session, open_session
from gptlab.training.step import train_step

PLOT = "lr_find.png"
POINTS = "lr_find.jsonl"

# How far the rates go to both sides of what is usual for an optimizer.
_RANGE = 1e3
# Steps to each side that a loss is averaged with.
_AROUND = 3
# Of the lowest loss so far, from where on there is nothing more to see.
_EXPLODED = 2.0
# Of the first loss, from where on it has fallen; it has risen again where it is as far above.
_FALLEN = 0.98
# Of the rate with the lowest loss: there training is at its edge, and a run is longer than this.
_SHARE = 1 / 5
_FEWEST = 10


@dataclass(frozen=True)
class SearchPoint:
    """A step of the search."""

    learning_rate: float
    loss: float
    """What training minimises, of the step's batch before the step."""


@dataclass(frozen=True)
class LearningRateSearch:
    """What a search found."""

    folder: Path
    """Where it is written: `lr_find.jsonl`, a point a line, and `lr_find.png`."""
    points: tuple[SearchPoint, ...]
    suggestion: float | None
    """A learning rate to train with; None if the loss fell at none."""


def find_learning_rate(
    config: TrainConfig, *, steps: int = 100, head: type[Head] | None = None
) -> LearningRateSearch:
    """Try out learning rates of all sizes on the run that `config` describes.

    The rate grows from step to step, by a constant factor, from a thousandth to a thousand times
    what is usual for the optimizer, and the search ends when the loss explodes (the range test of
    Smith 2017, https://arxiv.org/abs/1506.01186). What it learns is thrown away. It has a folder
    of its own beside the runs, and changes none of them.

    Args:
        config: The run. Of its schedule and of its learning rate nothing is used.
        steps: How many rates to try; more give a finer curve.
        head: The class of a head of one's own.

    Raises:
        ConfigError: There are too few steps to see a curve.
        GptlabError: A setting, a file or a device does not fit.
    """
    if steps < _FEWEST:
        raise ConfigError(f"steps is {steps}, but a curve takes at least {_FEWEST}; give more")
    with joined(config.device) as ranks, explained_memory():
        name = ranks.share(_free_name(config))
        session = open_session(_trial(config, name, steps), ranks, own_head=head)
        device = session.arithmetic.device
        with deterministic(config.deterministic, device), session.loader:
            session, forward = choose_computation(session)
            points = _try_out(session, forward, _rates(config.optimizer, steps))
        search = LearningRateSearch(session.folder, points, suggest(points))
        ranks.together(lambda: _write(search) if ranks.is_first else None)
        session.say(_conclusion(search))
    return search


def suggest(points: Sequence[SearchPoint]) -> float | None:
    """A share of the rate at the first valley of the losses, in two digits; None if there is none.

    Losses are averaged over a few neighbours first, for batches differ.
    """
    losses = _smoothed([point.loss for point in points])
    lowest = 0
    for place, loss in enumerate(losses):
        if loss < losses[lowest]:
            lowest = place
        elif losses[lowest] <= _FALLEN * losses[0] and loss > losses[lowest] / _FALLEN:
            # It has been through its valley; what is lower behind it is no place to train at.
            break
    if not losses or losses[lowest] > _FALLEN * losses[0]:
        return None
    return float(f"{_SHARE * points[lowest].learning_rate:.1e}")


def _free_name(config: TrainConfig) -> str:
    """Of the search's folder: the run's with an ending, numbered if it is taken."""
    stem = "lr_find" if config.experiment_name is None else f"{config.experiment_name}-lr_find"
    number = 1
    while (Path(config.runs_dir) / (name := stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return name


def _trial(config: TrainConfig, name: str, steps: int) -> TrainConfig:
    """`config` for the search alone: nothing of a run is read or written."""
    return config.model_copy(
        update={
            "experiment_name": name,
            "resume": False,
            "overwrite": False,
            "max_steps": steps,
            "max_minutes": None,
            "eval_strategy": "no",
            "ema_decay": None,
            "tensorboard": False,
            "wandb": False,
        }
    )


def _rates(optimizer: str, steps: int) -> list[float]:
    """From lowest to highest, by a constant factor."""
    usual = usual_rate(optimizer)
    return [usual * _RANGE ** (2 * step / (steps - 1) - 1) for step in range(steps)]


def _try_out(session: Session, forward: Forward, rates: Sequence[float]) -> tuple[SearchPoint, ...]:
    """A step with each of the rates, until the loss explodes."""
    points: list[SearchPoint] = []
    # A step that is not finite leaves its batch in the run's folder.
    with TemporaryDirectory() as scratch:
        for rate in rates:
            config = session.config.model_copy(
                update={
                    "learning_rate": rate,
                    "schedule": "constant",
                    "warmup_steps": 0,
                    "warmup_share": None,
                    "quiet": True,
                }
            )
            start = replace(session.start, folder=Path(scratch))
            report = train_step(replace(session, config=config, start=start), forward)
            loss = (report.sums.objective / report.sums.weight).item()
            if not math.isfinite(loss) or report.failure is not None:
                break
            points.append(SearchPoint(rate, loss))
            if _has_exploded(points):
                break
    return tuple(points)


def _has_exploded(points: Sequence[SearchPoint]) -> bool:
    """Whether the last losses are far above the lowest ones."""
    window = 2 * _AROUND + 1
    losses = [point.loss for point in points]
    means = [sum(losses[i : i + window]) / window for i in range(len(losses) - window + 1)]
    return bool(means) and means[-1] > _EXPLODED * min(means)


def _smoothed(losses: Sequence[float]) -> list[float]:
    """The mean of each loss and those around it."""
    parts = [losses[max(0, i - _AROUND) : i + _AROUND + 1] for i in range(len(losses))]
    return [sum(part) / len(part) for part in parts]


def _write(search: LearningRateSearch) -> None:
    search.folder.mkdir(parents=True)
    lines = [json.dumps(asdict(point)) + "\n" for point in search.points]
    replace_text(search.folder / POINTS, "".join(lines))
    _plot(search)


def _plot(search: LearningRateSearch) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Any = figure.subplots()
    rates = [point.learning_rate for point in search.points]
    losses = [point.loss for point in search.points]
    axes.plot(rates, losses, ".", alpha=0.4, label="loss of a step")
    axes.plot(rates, _smoothed(losses), label="with those around it")
    if search.suggestion is not None:
        axes.axvline(search.suggestion, color="C3", linestyle="--", label=f"{search.suggestion:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=search.folder.name)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(search.folder / PLOT, dpi=120, format="png")


def _conclusion(search: LearningRateSearch) -> str:
    if search.suggestion is None:
        return f"no learning rate lowered the loss; look at {search.folder / PLOT}"
    return (
        f"the curve is in {search.folder / PLOT}\n"
        f"now: the same command with --learning_rate {search.suggestion:g} instead of --lr_find"
    )
