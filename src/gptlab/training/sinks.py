"""Where records go beside `metrics.jsonl`: TensorBoard and Weights & Biases."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gptlab.config import TrainConfig
from gptlab.errors import ConfigError
from gptlab.training.files import replace_text

WANDB_ID = "wandb_id"
_PROJECT = "gptlab"


class Sink(Protocol):
    """Something that is told each record of a run as it is made."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record, which has at least `step` and `split`."""

    def close(self) -> None:
        """Take what is pending to its place; no record follows."""


def require_sinks(config: TrainConfig) -> None:
    """Refuse sinks whose package is missing, before there is any work to lose.

    Raises:
        ConfigError: It is not installed.
    """
    if config.tensorboard:
        tensorboard_writer()
    if config.wandb:
        _wandb()


def open_sinks(config: TrainConfig, folder: Path, after_step: int) -> tuple[Sink, ...]:
    """The sinks that `config` asks for.

    Args:
        config: The run's settings.
        folder: The run.
        after_step: The step after which the run begins, or goes on.

    Raises:
        ConfigError: A package is missing, or Weights & Biases can't be reached.
    """
    sinks: list[Sink] = []
    if config.wandb:
        sinks.append(WandB(config, folder))
    if config.tensorboard:
        sinks.append(TensorBoard(folder, after_step))
    return tuple(sinks)


class TensorBoard:
    """Writes TensorBoard's events into the run's folder.

    Args:
        folder: The run.
        after_step: Events of later steps, from before a run was killed, are hidden.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, after_step: int) -> None:
        self._writer = tensorboard_writer()(str(folder), purge_step=after_step + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush the events."""
        self._writer.close()


class WandB:
    """Sends records to Weights & Biases, project "gptlab" unless WANDB_PROJECT names another.

    A run that goes on is the same run there, by an id that is kept in its folder. With
    WANDB_MODE=offline the records stay in `wandb/` of the run's folder for `wandb sync`.

    Args:
        config: The run's settings, which are shown beside its curves.
        folder: The run; its name is the one over there.

    Raises:
        ConfigError: The package is not installed, nobody is logged in, or there is no network.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        wandb = _wandb()
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                id=_kept_id(folder),
                resume="allow",
                name=folder.name,
                dir=str(folder),
                config=config.model_dump(),
                settings=wandb.Settings(silent=config.quiet, console="off"),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"--wandb: Weights & Biases refuses ({reason}); run 'wandb login', or set "
                "WANDB_MODE=offline"
            ) from None
        # By its own count of steps, what a killed run sent already could not be sent again.
        self._run.define_metric("*", step_metric="step")

    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record."""
        self._run.log({"step": record["step"], **_numbers(record)})

    def close(self) -> None:
        """Send what is pending."""
        self._run.finish()


def tensorboard_writer() -> Any:
    """TensorBoard's class of writers.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "--tensorboard needs the tensorboard package; pip install tensorboard"
        ) from None
    return SummaryWriter


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise ConfigError("--wandb needs the wandb package; pip install wandb") from None
    return wandb


def _kept_id(folder: Path) -> str:
    """The id of the run in `folder`, made and kept there if it has none."""
    path = folder / WANDB_ID
    if not path.is_file():
        replace_text(path, f"{uuid.uuid4().hex[:12]}\n")
    return path.read_text(encoding="utf-8").strip()


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn of a record, as "train/loss"."""
    return {
        f"{record['split']}/{name}": value
        for name, value in record.items()
        if isinstance(value, int | float) and name != "step"
    }
