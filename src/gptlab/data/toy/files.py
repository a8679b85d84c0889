"""Where toy corpora are written."""

import os
from collections.abc import Mapping
from pathlib import Path

from gptlab.errors import DataError


def write_missing(folder: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write files by name into a folder, made where it is missing; their paths.

    A reader never sees half of a file, and one that exists is left as it is.

    Raises:
        DataError: A file can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if not (folder / name).exists():
                _write_atomically(folder / name, content)
    except OSError as error:
        raise DataError(f"can't write the toy corpus to {folder}: {error}") from error
    return tuple(folder / name for name in contents)


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
