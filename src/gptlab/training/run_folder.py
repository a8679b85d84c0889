"""Where a run writes, and the checkpoints in it.

    runs/NAME/
      config.json            the settings as resolved
      metrics.jsonl          a record a line; train_loss.png, val_loss.png, val_perplexity.png
      samples.txt            what the model said at each evaluation
      NAME_e5, NAME_e10, ... checkpoints every few epochs: models
      best-STEP, last-STEP   the lowest evaluation loss; the newest, from which training can go on

A name that ends in a step is never reused, so that replacing a checkpoint is writing the new one
and then deleting the old one: a kill in between leaves both.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from gptlab.checkpoint import TRAINER, checkpoints_in, find_checkpoint, read_header
from gptlab.config import TrainConfig
from gptlab.config.training import AUTO
from gptlab.errors import ConfigError
from gptlab.training.files import replace_text
from gptlab.training.sources import weighted_paths

CONFIG = "config.json"
BEST = "best"
LAST = "last"

# What a writer that was killed leaves: a file or a checkpoint under its temporary name.
_UNFINISHED = re.compile(r"\..+\.\d+(\.former)?")

# What may change between a run and its continuation: how long and where, not what is learned.
MAY_CHANGE = frozenset(
    {
        "attention",
        "compile",
        "device",
        "epochs",
        "eval_steps",
        "eval_strategy",
        "experiment_name",
        "log_every",
        "max_minutes",
        "max_steps",
        "overwrite",
        "patience",
        "quiet",
        "resume",
        "runs_dir",
        "sample_length",
        "save_every",
        "save_every_epochs",
        "tensorboard",
    }
)


def choose_run(config: TrainConfig) -> Path:
    """The folder that a run writes to; nothing is created yet.

    Without a name it is called after its data, numbered if there is such a run, and `resume`
    takes the newest of them.

    Raises:
        ConfigError: The run exists, and neither `resume` nor `overwrite` says what to do, or what
            exists is no run.
    """
    runs = Path(config.runs_dir)
    if config.experiment_name is None:
        return _unnamed(runs, config)
    folder = runs / config.experiment_name
    if not folder.exists():
        return folder
    if not config.resume and not config.overwrite:
        raise _exists(folder)
    if not _is_run(folder):
        raise ConfigError(f"{folder} is not a run of gptlab; write another --experiment_name")
    return folder


def continued(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings of the run in `folder`, with what `config` was given on top.

    Raises:
        ConfigError: They differ in what decides the result.
    """
    settings = _settings(folder)
    if settings is None:
        raise ConfigError(f"{folder / CONFIG} is damaged; start afresh with --overwrite")
    saved = TrainConfig(**settings)
    given = {name: getattr(config, name) for name in config.model_fields_set}
    differing = [
        f"{name} ({_shown(getattr(saved, name))}, not {_shown(value)})"
        for name, value in given.items()
        if not _agrees(name, value, saved)
    ]
    if differing:
        raise ConfigError(
            f"{folder} can't be resumed with other settings: {', '.join(sorted(differing))}; "
            "leave them out, or write another --experiment_name"
        )
    kept = {name: getattr(saved, name) for name in given if name not in MAY_CHANGE}
    return saved.replace(**{**given, **kept})


def has_settings(folder: Path) -> bool:
    """Whether a run in `folder` saved its settings, if nothing more."""
    return (folder / CONFIG).is_file()


def resumable_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which the run in `folder` can go on, if there is one.

    Raises:
        CheckpointError: There is one, and it is damaged: starting afresh would lose the run.
    """
    if not any(path.is_dir() for path in folder.glob(f"[!.]*/{TRAINER}")):
        return None
    return find_checkpoint(folder, resumable=True)


def create_run(folder: Path, config: TrainConfig) -> None:
    """Make the run's folder, emptied where `config` says so, and save `config` in it.

    Raises:
        ConfigError: Another run took the folder since it was chosen.
    """
    if config.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=config.resume)
    except FileExistsError:
        raise _exists(folder) from None
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = json.dumps(config.model_dump(exclude={"resume", "overwrite", "quiet"}), indent=1)
    replace_text(folder / CONFIG, text + "\n")


def drop_later_checkpoints(folder: Path, step: int) -> None:
    """Delete checkpoints of steps after `step`, from which the run goes on: they were not kept."""
    ours = re.compile(rf"({BEST}|{LAST})-\d+|{re.escape(folder.name)}_[es]\d+")
    for path in checkpoints_in(folder):
        if ours.fullmatch(path.name) and read_header(path)["step"] > step:
            shutil.rmtree(path)


def remove_older(folder: Path, kind: str, *, kept: Path) -> None:
    """Delete the checkpoints of `kind` (`best`, `last`) other than `kept`."""
    for old in folder.iterdir():
        if re.fullmatch(rf"{kind}-\d+", old.name) and old != kept:
            shutil.rmtree(old)


def _exists(folder: Path) -> ConfigError:
    return ConfigError(
        f"experiment '{folder.name}' exists already in {folder.parent}; write --resume to go on "
        "with it, --overwrite to replace it, or another --experiment_name"
    )


def _settings(folder: Path) -> dict[str, Any] | None:
    """The settings that the run in `folder` saved; None where there are none."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(values, dict) and {"train_data", "runs_dir"} <= values.keys()
    return values if is_ours else None


def _is_run(folder: Path) -> bool:
    """Whether nothing but a run would be lost or mixed up with one."""
    if not folder.is_dir():
        return False
    is_empty = all(path.name.startswith(".") for path in folder.iterdir())
    return is_empty or _settings(folder) is not None


def _agrees(name: str, value: object, saved: TrainConfig) -> bool:
    """Whether what was given is compatible with the saved settings, which are resolved ones."""
    if name == "precision" and value == AUTO:
        return True
    if name == "vocab_size" and saved.tokenizer == AUTO and isinstance(value, int):
        # A text may have no more to merge than this.
        return value >= saved.vocab_size
    return name in MAY_CHANGE or value == getattr(saved, name)


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _unnamed(runs: Path, config: TrainConfig) -> Path:
    paths = [Path(path) for path, _ in weighted_paths(config.train_data)]
    others = f"_and_{len(paths) - 1}_more" if len(paths) > 1 else ""
    name = paths[0].resolve().stem
    stem = (re.sub(r"[^\w.+-]+", "_", name).lstrip(".+-") or "run") + others
    pattern = re.compile(re.escape(stem) + r"(-\d+)?")
    taken = [path for path in runs.glob(f"{stem}*") if pattern.fullmatch(path.name)]
    runs_taken = [path for path in taken if _is_run(path)]
    if runs_taken and config.resume:
        return max(runs_taken, key=lambda path: path.stat().st_mtime)
    number = 1
    while (folder := runs / (stem if number == 1 else f"{stem}-{number}")) in taken:
        number += 1
    return folder
