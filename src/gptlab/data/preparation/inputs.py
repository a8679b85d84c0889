"""Standard input as a file, because what is read may have to be read again."""

import hashlib
import os
import sys
from pathlib import Path

from gptlab.corpus.compression import PIECE_BYTES
from gptlab.data.staging import writing
from gptlab.errors import ConfigError

STANDARD_INPUT = "-"


def spooled(folder: Path, *, name: str) -> Path:
    """Copy standard input to the file `name` in `folder`.

    The time of the file depends on its content alone, so that the same input is the same source
    to a preparation that goes on.

    Raises:
        ConfigError: `name` is no file's name, or standard input is closed.
        DataError: The copy can't be written.
    """
    if Path(name).name != name or name == "..":
        raise ConfigError(f"input_name is '{name}', but it is a file's name, as in x.jsonl")
    if sys.stdin is None:
        raise ConfigError("standard input is closed; pipe a text into it, or name a file")
    path = folder / name
    digest = hashlib.sha256()
    with writing(folder):
        folder.mkdir(exist_ok=True)
        copy = path.open("wb")
    with writing(folder), copy:
        while data := sys.stdin.buffer.read(PIECE_BYTES):
            digest.update(data)
            copy.write(data)
    seconds = int.from_bytes(digest.digest()[:4]) // 2
    os.utime(path, (seconds, seconds))
    return path
