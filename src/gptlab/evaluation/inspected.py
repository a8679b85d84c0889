"""A model that is looked into, whatever its architecture."""

from dataclasses import dataclass
from pathlib import Path

from gptlab.config import TrainConfig
from gptlab.errors import ConfigError
from gptlab.interop import find_model, load
from gptlab.model import Network
from gptlab.tokenizer import Tokenizer
from gptlab.training.precision import Arithmetic, choose_arithmetic
from gptlab.training.run_settings import CONFIG, saved_config


@dataclass(frozen=True)
class Inspected:
    """A trained model, its tokenizer, and how it computes."""

    folder: Path
    """Its checkpoint, or where else it lies."""
    model: Network
    """In evaluation mode, on the device of `arithmetic`."""
    tokenizer: Tokenizer
    arithmetic: Arithmetic
    settings: TrainConfig | None
    """Of its run; None where the checkpoint lies in none."""


def open_any(path: str | Path, *, device: str = "auto", precision: str = "auto") -> Inspected:
    """The model of a checkpoint, of a run's newest one, or of another tool.

    Args:
        path: A run, or a checkpoint; "RUN/best" is a run's best; or what else `gptlab.load` takes.
        device: cpu, cuda, ...; 'auto' takes a GPU where there is one.
        precision: Arithmetic of matrix products; a model in 16 bits has its own.

    Raises:
        CheckpointError: There is none, or it is damaged.
        ConfigError: Its tokenizer has more ids than it knows.
        BackendError: The device or the precision is not to be had here.
    """
    arithmetic = choose_arithmetic(device, precision)
    folder = find_model(path)
    model, tokenizer = load(folder, device=arithmetic.device)
    settings = saved_config(folder.parent)
    return Inspected(folder, model, tokenizer, arithmetic.of(model.dtype), settings)


def settings_of(
    checkpoint: Path, *, remedy: str = "give a run, or a checkpoint in one"
) -> TrainConfig:
    """The settings of the run that `checkpoint` lies in.

    Args:
        checkpoint: Where a model lies.
        remedy: What to say if it lies in none.

    Raises:
        ConfigError: It lies in none.
    """
    settings = saved_config(checkpoint.parent)
    if settings is None:
        raise ConfigError(
            f"{checkpoint} lies in no run, whose {CONFIG} would say what it is evaluated on; "
            f"{remedy}"
        )
    return settings
