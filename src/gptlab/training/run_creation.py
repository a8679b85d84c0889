"""A run's folder, made or cut back to the step from which the run goes on."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlab.checkpoint.staging import clear_unfinished, publish_copy, remove, staged
from gptlab.config import TrainConfig
from gptlab.errors import ConfigError
from gptlab.training.files import replace_text
from gptlab.training.run_checkpoints import LAST, drop_later_checkpoints, remove_older
from gptlab.training.run_folder import Start, already_exists
from gptlab.training.run_settings import CONFIG, to_text

# What a run that branches off another one begins with, cut back to the step where it does.
_RECORDS = ("metrics.jsonl", "samples.txt")


def create_run(start: Start, config: TrainConfig, *, step: int) -> None:
    """Make the run's folder as it was at `step`, and save `config` in it.

    What killed writers left and checkpoints of later steps go. A run that is new or replaced is
    empty, and one that branches off another has its checkpoint and its records.

    Raises:
        ConfigError: Another run took the folder since it was chosen, or it can't be written.
        CheckpointError: The checkpoint of the other run can't be copied.
    """
    folder, is_new = start.folder, start.is_branch or start.origin is None
    with _writing(folder):
        if is_new and config.overwrite and folder.exists():
            remove(folder)
        if start.is_branch:
            _branch(start, config, step)
            return
        try:
            folder.mkdir(parents=True, exist_ok=bool(config.resume))
        except FileExistsError:
            raise already_exists(folder) from None
        clear_unfinished(folder)
        drop_later_checkpoints(folder, step)
        remove_older(folder, keep_last=config.keep_last)
        replace_text(folder / CONFIG, to_text(config))


def _branch(start: Start, config: TrainConfig, step: int) -> None:
    """The new run appears with all that it begins with, or not at all."""
    assert start.origin is not None
    assert start.checkpoint is not None
    if start.folder.exists():
        raise already_exists(start.folder)
    with staged(start.folder) as partial:
        publish_copy(start.checkpoint, partial / f"{LAST}-{step}", trainer=True)
        for name in _RECORDS:
            if (start.origin / name).is_file():
                shutil.copyfile(start.origin / name, partial / name)
        replace_text(partial / CONFIG, to_text(config))
        partial.rename(start.folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"runs_dir is '{folder.parent}', but {folder.name} can't be written there: "
            f"{error.strerror}; give another --runs_dir"
        ) from None
