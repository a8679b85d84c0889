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

from gptlab.checkpoint import find_checkpoint
from gptlab.config import TrainConfig
from gptlab.errors import CheckpointError, ConfigError

CONFIG = "config.json"
BEST = "best"
LAST = "last"

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
        ConfigError: The run exists, and neither `resume` nor `overwrite` says what to do.
    """
    runs = Path(config.runs_dir)
    if config.experiment_name is None:
        return _unnamed(runs, config)
    folder = runs / config.experiment_name
    if not folder.exists() or config.resume:
        return folder
    if not config.overwrite:
        raise ConfigError(
            f"experiment '{folder.name}' exists already in {runs}; write --resume to go on with "
            "it, --overwrite to replace it, or another --experiment_name"
        )
    if any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is not a run of gptlab; write another --experiment_name")
    return folder


def continued(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings of the run in `folder`, with what `config` was given on top.

    Raises:
        ConfigError: They differ in what decides the result.
    """
    saved = TrainConfig(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    given = {name: getattr(config, name) for name in config.model_fields_set}
    differing = [
        f"{name} ({getattr(saved, name)}, not {value})"
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(saved, name)
    ]
    if differing:
        raise ConfigError(
            f"{folder} can't be resumed with other settings: {', '.join(sorted(differing))}; "
            "leave them out, or write another --experiment_name"
        )
    return saved.replace(**given)


def resumable_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which the run in `folder` can go on, if there is one."""
    try:
        return find_checkpoint(folder, resumable=True)
    except CheckpointError:
        return None


def create_run(folder: Path, config: TrainConfig) -> None:
    """Make the run's folder, emptied unless it is resumed, and save `config` in it."""
    if folder.exists() and not config.resume:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.model_dump(exclude={"resume", "overwrite"}), indent=1)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def remove_older(folder: Path, kind: str, *, kept: Path) -> None:
    """Delete the checkpoints of `kind` (`best`, `last`) other than `kept`."""
    for old in folder.glob(f"{kind}-*"):
        if old != kept:
            shutil.rmtree(old)


def _unnamed(runs: Path, config: TrainConfig) -> Path:
    stem = re.sub(r"[^\w.+-]+", "_", Path(config.train_data).resolve().stem).lstrip(".+-") or "run"
    pattern = re.compile(re.escape(stem) + r"(-\d+)?")
    taken = [path for path in runs.glob(f"{stem}*") if pattern.fullmatch(path.name)]
    if taken and config.resume:
        return max(taken, key=lambda path: path.stat().st_mtime)
    number = 1
    while (folder := runs / (stem if number == 1 else f"{stem}-{number}")) in taken:
        number += 1
    return folder
