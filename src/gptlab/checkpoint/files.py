"""A checkpoint's files: written, sealed with checksums, put in place, and held against them."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.data.staging import flush
from gptlab.errors import CheckpointError

FORMAT = "gptlab"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CHECKSUMS = "checksums.json"
TRAINER = "trainer"


def read_header(folder: Path) -> dict[str, Any]:
    """What `config.json` of a checkpoint says.

    Raises:
        CheckpointError: It is missing, damaged, or of another format.
    """
    try:
        header = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{folder / CONFIG} can't be read: {error.strerror}") from None
    except ValueError:
        raise CheckpointError(f"{folder / CONFIG} is damaged; use another checkpoint") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not a gptlab checkpoint; give one that gptlab wrote")
    if header.get("version", VERSION) != VERSION:
        raise CheckpointError(
            f"{folder} has format version {header['version']}, but this gptlab reads {VERSION}; "
            "use the gptlab that wrote it"
        )
    if not isinstance(header.get("step"), int) or not isinstance(header.get("model"), dict):
        raise CheckpointError(f"{folder / CONFIG} is damaged; use another checkpoint")
    return header


def write_header(folder: Path, model: ModelConfig, *, step: int) -> None:
    """Write `config.json` of a checkpoint."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": "gpt",
        "step": step,
        "model": model.model_dump(),
    }
    (folder / CONFIG).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Hold every file against its checksum.

    Raises:
        CheckpointError: A file is missing or was changed.
    """
    try:
        checksums = dict(json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"{folder / CHECKSUMS} is missing or damaged") from None
    if not {CONFIG, WEIGHTS} <= checksums.keys():
        raise CheckpointError(f"{folder / CHECKSUMS} is missing or damaged")
    for name, expected in checksums.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; use another checkpoint")
        if _digest(folder / name) != expected:
            raise CheckpointError(f"{folder / name} is damaged; use another checkpoint")


def seal(folder: Path) -> None:
    """Write the checksum of every file, and flush everything to the disk."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    checksums = {file.relative_to(folder).as_posix(): _digest(file) for file in files}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")
    for path in [folder / CHECKSUMS, *files, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        flush(path)


def publish(partial: Path, folder: Path) -> None:
    """Give `partial` its final name, in place of the checkpoint that has it."""
    former = partial.with_name(f"{partial.name}.former")
    if folder.exists():
        folder.rename(former)
    try:
        partial.rename(folder)
    except OSError:
        if former.exists():
            former.rename(folder)
        raise
    flush(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def is_replaceable(folder: Path) -> bool:
    """Whether nothing but a checkpoint would be lost with `folder`."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder.is_dir()
    try:
        return bool(read_header(folder))
    except CheckpointError:
        return False


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors.

    Raises:
        CheckpointError: They can't be written, on a full disk for example.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} can't be written: {error}") from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors from a safetensors file.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or damaged: {error}") from None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
