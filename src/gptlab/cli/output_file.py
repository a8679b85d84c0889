"""Whether a file that a command will write can be written, and loses nothing."""

import os
from collections.abc import Iterable
from pathlib import Path

from gptlab.errors import ConfigError

_OF_RUNS = ("config.json", "metrics.jsonl")
_IN_CHECKPOINTS = "checksums.json"


def check_file(path: Path, *, flag: str, read: Iterable[str] = ()) -> None:
    """Find out, before any work, whether `path` can be written.

    Args:
        path: A file, which is replaced if it is there.
        flag: What names it.
        read: What the command reads.

    Raises:
        ConfigError: It is a folder or a device, is not in a folder that may be written to, is read
            by the command, or is part of a run or of a checkpoint.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; write --{flag} with the name of a file")
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"{path} is no file but a device or a pipe; write --{flag} with the name of a file"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{path} can't be written, for {path.parent} is no folder that you may write to; "
            f"choose another --{flag}"
        )
    if not path.exists():
        return
    if any(Path(name).is_file() and path.samefile(name) for name in read):
        raise ConfigError(
            f"{path} is read by the same command, and would be lost; choose another --{flag}"
        )
    if path.name in _OF_RUNS or (path.parent / _IN_CHECKPOINTS).exists():
        raise ConfigError(
            f"{path} is part of a run or of a model, and would be lost; choose another --{flag}"
        )
