"""A run's folder, made or cut back to the step from which the run goes on."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gptlab.checkpoint.staging import clear_unfinished, publish, publish_copy, remove, staged
from gptlab.config import TrainConfig
from gptlab.data.staging import lock_file
from gptlab.errors import ConfigError
from gptlab.training.files import replace_text
from gptlab.training.run_checkpoints import LAST, drop_later_checkpoints, remove_older
from gptlab.training.run_folder import Start, already_exists
from gptlab.training.run_settings import CONFIG, to_text

# What a run that branches off another one begins with, cut back to the step where it does.
_RECORDS = ("metrics.jsonl", "samples.txt")
_LOCK = ".lock"


@contextmanager
def created_run(start: Start, config: TrainConfig, *, step: int) -> Iterator[None]:
    """Make the run's folder as it was at `step`, save `config` in it, and hold it for this process.

    What killed writers left and checkpoints of later steps go. A run that is new or replaced is
    empty, and one that branches off another has its checkpoint and its records.

    Raises:
        ConfigError: Another process trains the run, or took its folder since it was chosen; or it
            can't be written.
        CheckpointError: The checkpoint of the other run can't be copied.
    """
    folder = start.folder
    with ExitStack() as stack:
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            clear_unfinished(folder.parent, of=folder.name)
            if folder.exists():
                with _held(folder):
                    _make_room(start, config, step=step)
            if start.is_branch:
                _branch(start, config, step)
            elif start.origin is None:
                _begin(folder, is_there=bool(config.resume))
            stack.enter_context(_held(folder))
            replace_text(folder / CONFIG, to_text(config))
        yield


def _make_room(start: Start, config: TrainConfig, *, step: int) -> None:
    """Take from the folder that is there what does not belong to the run at `step`."""
    if start.is_branch:
        if not config.overwrite:
            raise already_exists(start.folder)
    elif start.origin is None:
        if config.overwrite:
            remove(start.folder)
    else:
        clear_unfinished(start.folder)
        drop_later_checkpoints(start.folder, step)
        remove_older(start.folder, keep_last=config.keep_last)


def _begin(folder: Path, *, is_there: bool) -> None:
    try:
        folder.mkdir(exist_ok=is_there)
    except FileExistsError:
        raise already_exists(folder) from None


def _branch(start: Start, config: TrainConfig, step: int) -> None:
    """The new run appears with all that it begins with, or not at all."""
    assert start.origin is not None
    assert start.checkpoint is not None
    with staged(start.folder) as partial:
        publish_copy(start.checkpoint, partial / f"{LAST}-{step}", trainer=True)
        for name in _RECORDS:
            if (start.origin / name).is_file():
                shutil.copyfile(start.origin / name, partial / name)
        replace_text(partial / CONFIG, to_text(config))
        publish(partial, start.folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Let no other process train the run in `folder`."""
    path = folder / _LOCK
    with path.open("w") as stream:
        if not lock_file(stream.fileno()):
            raise ConfigError(
                f"another process is training {folder}; wait until it is done, or write another "
                "--experiment_name"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"runs_dir is '{folder.parent}', but {folder.name} can't be written there: "
            f"{error.strerror}; give another --runs_dir"
        ) from None
