"""Where a run writes.

    runs/NAME/
      config.json            the settings as resolved
      metrics.jsonl          a record a line; pictures of them
      samples.txt            what the model said at each evaluation
      NAME_e5, NAME_e10, ... checkpoints every few epochs, or NAME_s500 every few steps
      best-STEP, last-STEP   the lowest evaluation loss; the newest

A name that ends in a step is not reused, so that replacing a checkpoint is writing the new one and
then deleting the old one: a kill in between leaves both.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gptlab.checkpoint import TRAINER, find_checkpoint, read_header
from gptlab.config import TrainConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.training.run_checkpoints import (
    later_checkpoints,
    require_whole,
    resumable_checkpoint,
)
from gptlab.training.run_settings import CONFIG, merged, saved_settings
from gptlab.training.sources import weighted_paths


@dataclass(frozen=True)
class Start:
    """Where a run writes, and what it begins with."""

    folder: Path
    origin: Path | None = None
    """The run that it goes on: itself, or the one that it branches off; None if it is new."""
    checkpoint: Path | None = None
    """Whole, and of `origin`; None if there is none, so that the run starts afresh."""

    @property
    def is_branch(self) -> bool:
        """Whether it goes on another run under a name of its own."""
        return self.origin is not None and self.origin != self.folder


def choose_run(config: TrainConfig) -> Start:
    """The folder that a run writes to, and the checkpoint it goes on from; nothing is created yet.

    Without a name it is called after its data, numbered if there is such a run, and `resume`
    takes the newest of them, or the newest of all where no data are named. Where `resume` is a run
    or a checkpoint, it goes on there, or beside it under another name.

    Raises:
        ConfigError: The run exists, and neither `resume` nor `overwrite` says what to do; what
            exists is no run; or nothing can be written there.
        CheckpointError: There is no checkpoint where `resume` says, or it is damaged.
    """
    if isinstance(config.resume, str):
        path, named = Path(config.resume), Path(config.runs_dir, config.resume)
        start = _start_at(named if named.exists() and not path.exists() else path, config)
    else:
        start = _start_in(_folder_of(config), config)
    _require_writable(start.folder)
    return start


def continued(config: TrainConfig, start: Start) -> TrainConfig:
    """The settings of the run that goes on, with what `config` was given on top.

    Raises:
        ConfigError: They differ in what decides the result, or a run that starts afresh lacks its
            model.
    """
    if start.origin is None:
        config.require_model()
        return config
    return merged(config, start.origin).replace(runs_dir=str(start.folder.parent))


def already_exists(folder: Path) -> ConfigError:
    """What to say of a run that would be mixed up with another one."""
    return ConfigError(
        f"experiment '{folder.name}' exists already in {folder.parent}; write --resume to go on "
        "with it, --overwrite to replace it, or another --experiment_name"
    )


def _folder_of(config: TrainConfig) -> Path:
    runs = Path(config.runs_dir)
    if config.experiment_name is None:
        return _unnamed(runs, config)
    folder = runs / config.experiment_name
    if folder.exists():
        if not config.resume and not config.overwrite:
            raise already_exists(folder)
        _require_run(folder)
    return folder


def _start_in(folder: Path, config: TrainConfig) -> Start:
    """Go on in `folder` if `config` says so and there is a run."""
    if not config.resume or not (folder / CONFIG).is_file():
        return Start(folder)
    return Start(folder, origin=folder, checkpoint=resumable_checkpoint(folder))


def _start_at(path: Path, config: TrainConfig) -> Start:
    """Go on from `path`, a run or a checkpoint of one."""
    if path.name in ("", ".."):
        path = path.resolve()
    if saved_settings(path) is not None:
        origin, checkpoint = path, resumable_checkpoint(path)
    else:
        checkpoint = _checkpoint_at(path)
        origin = checkpoint.parent
    name = config.experiment_name or origin.name
    runs = Path(config.runs_dir) if "runs_dir" in config.model_fields_set else origin.parent
    folder = runs / name
    if folder.resolve() != origin.resolve():
        return _start_beside(folder, origin, checkpoint, config)
    if checkpoint is not None and not config.overwrite:
        _require_newest(checkpoint, origin)
    return Start(origin, origin=origin, checkpoint=checkpoint)


def _start_beside(
    folder: Path, origin: Path, checkpoint: Path | None, config: TrainConfig
) -> Start:
    if checkpoint is None:
        raise CheckpointError(
            f"{origin} has no checkpoint to go on from; leave --experiment_name out to start it "
            "afresh"
        )
    if folder.exists():
        if not config.overwrite:
            raise ConfigError(
                f"experiment '{folder.name}' exists already in {folder.parent}; write --resume "
                f"{folder} to go on with it, --overwrite to replace it, or another "
                "--experiment_name"
            )
        _require_run(folder)
    return Start(folder, origin=origin, checkpoint=checkpoint)


def _checkpoint_at(path: Path) -> Path:
    checkpoint = find_checkpoint(path, resumable=True)
    if not (checkpoint / TRAINER).is_dir():
        raise CheckpointError(
            f"{checkpoint} is a model without the state of training, from which none can go on; "
            f"give {checkpoint.parent}, or a checkpoint with {TRAINER}/ in it"
        )
    if saved_settings(checkpoint.parent) is None:
        raise CheckpointError(
            f"{checkpoint} lies in no run: {checkpoint.parent / CONFIG}, whose settings it takes, "
            "is missing or damaged; put that file back, or the checkpoint into its run"
        )
    require_whole(checkpoint)
    return checkpoint


def _require_newest(checkpoint: Path, run: Path) -> None:
    """Refuse to lose what a run has done since `checkpoint`, if that could be gone on from."""
    step = read_header(checkpoint)["step"]
    later = [path for path in later_checkpoints(run, step) if (path / TRAINER).is_dir()]
    if later:
        raise ConfigError(
            f"{run} has gone on from {checkpoint.name} to {later[-1].name}; write --overwrite to "
            "go back and drop what came after, or --experiment_name with a new name to go on "
            "beside it"
        )


def _require_run(folder: Path) -> None:
    if not _is_run(folder):
        raise ConfigError(f"{folder} is not a run of gptlab; write another --experiment_name")


def _is_run(folder: Path) -> bool:
    """Whether nothing but a run would be lost or mixed up with one."""
    if not folder.is_dir():
        return False
    is_empty = all(path.name.startswith(".") for path in folder.iterdir())
    return is_empty or saved_settings(folder) is not None


def _require_writable(folder: Path) -> None:
    """Find out before any work, and say it by the name that the user knows."""
    ancestors = [path for path in (folder, *folder.parents) if os.path.lexists(path)]
    nearest = ancestors[0] if ancestors else Path()
    if not nearest.is_dir():
        reason = f"{nearest} is no folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"{nearest} does not allow it"
    else:
        return
    raise ConfigError(
        f"runs_dir is '{folder.parent}', but nothing can be written there: {reason}; give another "
        "--runs_dir"
    )


def _unnamed(runs: Path, config: TrainConfig) -> Path:
    if config.resume and "train_data" not in config.model_fields_set and runs.is_dir():
        any_run = [path for path in runs.iterdir() if saved_settings(path) is not None]
        if any_run:
            return max(any_run, key=lambda path: path.stat().st_mtime)
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
