"""What a checkpoint's folder says of itself: its header, and the checksums of its files."""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

from gptlab.config import HeadSettings, LoRA, ModelConfig, Quantization
from gptlab.config.transformer import Architecture
from gptlab.errors import CheckpointError

FORMAT = "gptlab"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter.safetensors"
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
    if header.get("architecture") not in get_args(Architecture):
        raise CheckpointError(
            f"{folder} holds a network of architecture '{header.get('architecture')}', which this "
            f"gptlab does not have; known: {', '.join(get_args(Architecture))}"
        )
    if not isinstance(header.get("step"), int) or not isinstance(header.get("model"), dict):
        raise CheckpointError(f"{folder / CONFIG} is damaged; use another checkpoint")
    return header


def write_header(
    folder: Path,
    model: ModelConfig,
    *,
    step: int,
    architecture: Architecture = "gpt",
    quantization: Quantization | None = None,
    head: HeadSettings | None = None,
    lora: LoRA | None = None,
) -> None:
    """Write `config.json` of a checkpoint."""
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": architecture,
        "step": step,
        "model": model.model_dump(),
    }
    if quantization is not None:
        header["quantization"] = quantization.model_dump()
    if head is not None:
        header["head"] = head.model_dump()
    if lora is not None:
        header["lora"] = lora.model_dump()
    (folder / CONFIG).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Hold every file against its checksum.

    Raises:
        CheckpointError: A file is missing or was changed.
    """
    for name, expected in read_checksums(folder).items():
        try:
            found = digest(folder / name)
        except FileNotFoundError:
            raise CheckpointError(f"{folder / name} is missing; use another checkpoint") from None
        except OSError as error:
            raise CheckpointError(
                f"{folder / name} can't be read: {error.strerror}; use another checkpoint"
            ) from None
        if found != expected:
            raise CheckpointError(f"{folder / name} is damaged; use another checkpoint")


def read_checksums(folder: Path) -> dict[str, str]:
    """The checksum of every file in the checkpoint `folder`, by its name within.

    Raises:
        CheckpointError: They are missing or damaged, or name files outside.
    """
    try:
        checksums = dict(json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")))
        has_weights = bool({WEIGHTS, ADAPTER} & checksums.keys())
        is_ours = CONFIG in checksums and has_weights and all(map(_is_within, checksums))
    except (OSError, ValueError, TypeError):
        is_ours = False
    if not is_ours:
        raise CheckpointError(f"{folder / CHECKSUMS} is missing or damaged; use another checkpoint")
    return checksums


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_replaceable(folder: Path) -> None:
    """Refuse to write where something would be lost that is no checkpoint.

    Raises:
        CheckpointError: There is such a thing at `folder`.
    """
    target = folder.resolve()
    if target.exists() and not _is_replaceable(target):
        raise CheckpointError(f"{folder} is no gptlab checkpoint; choose another folder")


def _is_replaceable(folder: Path) -> bool:
    """Whether nothing but a checkpoint would be lost with `folder`."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder.is_dir()
    try:
        return bool(read_header(folder))
    except CheckpointError:
        return False


def _is_within(name: str) -> bool:
    """Whether a name leads to a place in the folder that it is of, on every system."""
    parts = name.replace("\\", "/").split("/")
    return ":" not in name and not {"", ".", ".."} & set(parts)
