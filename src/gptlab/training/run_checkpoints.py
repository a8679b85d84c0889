"""The checkpoints in a run's folder: which there are, and which of them go."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlab.checkpoint import TRAINER, checkpoints_in, find_checkpoint, read_header, verify
from gptlab.checkpoint.find import step_of
from gptlab.checkpoint.staging import remove
from gptlab.errors import CheckpointError

BEST = "best"
LAST = "last"
_NUMBERED = "numbered"


def resumable_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint from which the run in `folder` can go on, held against its checksums.

    None where there is none.

    Raises:
        CheckpointError: It is damaged; starting afresh would lose the run. The message names an
            older one that is whole.
    """
    if not _resumable_in(folder):
        return None
    with _naming_an_older_one(folder):
        checkpoint = find_checkpoint(folder, resumable=True)
        verify(checkpoint)
    return checkpoint


def require_whole(checkpoint: Path) -> None:
    """Hold a checkpoint that lies in its run against its checksums.

    Raises:
        CheckpointError: It is damaged. The message names an older one that is whole.
    """
    with _naming_an_older_one(checkpoint.parent):
        read_header(checkpoint)
        verify(checkpoint)


def later_checkpoints(folder: Path, step: int) -> list[Path]:
    """Checkpoints of the run in `folder` that it made after `step`, the newest last."""
    ours = [path for path in checkpoints_in(folder) if _kind(path)]
    later = [path for path in ours if step_of(path) > step]
    return sorted(later, key=lambda path: (step_of(path), _kind(path) == LAST))


def drop_later_checkpoints(folder: Path, step: int) -> None:
    """Delete checkpoints of steps after `step`, from which the run goes on: they were not kept."""
    # Killed in between, the run is as it was at some step.
    for path in reversed(later_checkpoints(folder, step)):
        remove(path)


def remove_older(folder: Path, *, keep_last: int | None) -> None:
    """Delete all but the newest `best` and `last`, and all but `keep_last` of the numbered ones."""
    checkpoints = sorted(checkpoints_in(folder), key=step_of)
    for kind, limit in ((BEST, 1), (LAST, 1), (_NUMBERED, keep_last)):
        if limit is not None:
            for old in [path for path in checkpoints if _kind(path) == kind][:-limit]:
                remove(old)


def _kind(path: Path) -> str | None:
    """What sort of checkpoint of its run this is; None if it is the user's own."""
    if match := re.fullmatch(rf"({BEST}|{LAST})-\d+", path.name):
        return match[1]
    numbered = re.fullmatch(rf"{re.escape(path.parent.name)}_[es]\d+", path.name)
    return _NUMBERED if numbered else None


def _resumable_in(folder: Path) -> list[Path]:
    return [path for path in checkpoints_in(folder) if (path / TRAINER).is_dir()]


@contextmanager
def _naming_an_older_one(folder: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        problem = str(error).removesuffix("; use another checkpoint")
        for older in sorted(_resumable_in(folder), key=step_of, reverse=True):
            if _is_whole(older):
                raise CheckpointError(
                    f"{problem}; go back to an older checkpoint with --resume {older} --overwrite"
                ) from None
        raise CheckpointError(
            f"{problem}, and there is no older checkpoint to go on from; start afresh with "
            "--overwrite"
        ) from None


def _is_whole(checkpoint: Path) -> bool:
    try:
        read_header(checkpoint)
        verify(checkpoint)
    except CheckpointError:
        return False
    return True
