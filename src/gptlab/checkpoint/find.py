"""Which checkpoint a path means."""

import math
import re
from pathlib import Path

from gptlab.checkpoint.files import CONFIG, TRAINER, WEIGHTS, read_header
from gptlab.checkpoint.staging import is_set_aside, public_name, set_aside
from gptlab.errors import CheckpointError


def find_checkpoint(path: str | Path, *, resumable: bool = False) -> Path:
    """The checkpoint that `path` means: itself, the newest of a run, or `best` or `last` of one.

    Args:
        path: A checkpoint's folder, a run's folder, or `RUN/best` and `RUN/last`, which stand for
            the folders of that name with a step number behind it.
        resumable: Look only at checkpoints from which training can go on.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    path = set_aside(path) or path
    if not path.exists():
        numbered = [
            folder
            for folder in checkpoints_in(path.parent)
            if public_name(folder).startswith(f"{path.name}-")
        ]
        if not numbered:
            raise CheckpointError(
                f"{path} does not exist; give a run, a checkpoint folder, or train one with "
                "gptlab-train"
            )
        return _newest(numbered)
    if _is_one(path):
        return path
    found = checkpoints_in(path)
    if resumable:
        found = [folder for folder in found if (folder / TRAINER).is_dir()]
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint; give a run or a checkpoint folder")
    return _newest(found)


def named_model(name: str | Path, runs_dir: str | Path) -> Path:
    """The run or the checkpoint that `name` means, among the runs or where it says.

    "RUN/best" is no folder, but stands for one in its run. What is nowhere comes back as it is.
    """
    for path in (Path(runs_dir, name), Path(name)):
        if path.exists() or (path.parent / CONFIG).is_file():
            return path
    return Path(name)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints that lie in `folder`, with those that a killed writer had set aside."""
    return [path for path in folder.iterdir() if _is_one(path)] if folder.is_dir() else []


def _is_one(folder: Path) -> bool:
    is_public = not folder.name.startswith(".") or is_set_aside(folder)
    return is_public and (folder / WEIGHTS).is_file()


def _newest(checkpoints: list[Path]) -> Path:
    newest = max(checkpoints, key=_age)
    # Old ones may be damaged, but this one is meant.
    read_header(newest)
    return newest


def _age(folder: Path) -> tuple[float, bool, bool, str]:
    """What the newest of some checkpoints has the most of; of one step, `last` is meant first."""
    name = public_name(folder)
    return step_of(folder), (folder / TRAINER).is_dir(), name.startswith("last-"), name


def step_of(checkpoint: Path) -> float:
    """The step that a checkpoint is of; without a readable header, what its name says of it."""
    try:
        return int(read_header(checkpoint)["step"])
    except CheckpointError:
        match = re.search(r"(-|_s)(\d+)$", public_name(checkpoint))
        return int(match[2]) if match else -math.inf
