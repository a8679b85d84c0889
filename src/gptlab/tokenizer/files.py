"""Read and write a tokenizer's files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptlab.errors import TokenizerError


def write_files(folder: str | Path, contents: Mapping[str, bytes | None]) -> None:
    """Write each file under a temporary name and rename it, so that none is ever seen half written.

    Args:
        folder: Where to; it is made if it is missing.
        contents: Name and content of each file; None for a file that must not be there.

    Raises:
        TokenizerError: The folder or a file can't be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                _write_file(folder / name, content)
    except OSError as error:
        raise TokenizerError(
            f"can't write the tokenizer to {folder}: {error.strerror}; choose another folder"
        ) from error


def _write_file(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_file(path: Path) -> bytes:
    """The content of one of a tokenizer's files.

    Raises:
        TokenizerError: The file is missing or can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"can't read the tokenizer file {path}: {error.strerror}; check the path"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        TokenizerError: The file is missing, or is no JSON object.
    """
    try:
        content = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"{path} is no valid JSON ({error}): save the tokenizer again"
        ) from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds no JSON object, so it is no tokenizer")
    return content


def to_json(content: object) -> bytes:
    """`content` as indented JSON, the same bytes every time."""
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
