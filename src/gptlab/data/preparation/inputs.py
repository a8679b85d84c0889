"""Standard input as a file, because what is read may have to be read again."""

import hashlib
import os
import sys
from pathlib import Path

from gptlab.corpus.compression import PIECE_BYTES
from gptlab.errors import ConfigError

STANDARD_INPUT = "-"


def spooled(folder: Path, *, name: str) -> Path:
    """Copy standard input to the file `name` in `folder`.

    The time of the file depends on its content alone, so that the same input is the same source
    to a preparation that goes on.

    Raises:
        ConfigError: `name` is no file's name.
    """
    if Path(name).name != name:
        raise ConfigError(f"input_name is '{name}', but it is a file's name, as in x.jsonl")
    folder.mkdir(exist_ok=True)
    path = folder / name
    digest = hashlib.sha256()
    with path.open("wb") as copy:
        while data := sys.stdin.buffer.read(PIECE_BYTES):
            digest.update(data)
            copy.write(data)
    seconds = int.from_bytes(digest.digest()[:4]) // 2
    os.utime(path, (seconds, seconds))
    return path
