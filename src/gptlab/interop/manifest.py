"""What an exported folder says of itself, in `export.json`: that it is one, and of which model."""

import json
from pathlib import Path
from typing import Any

from gptlab.config import ModelConfig
from gptlab.errors import ConfigError, ExportError

MANIFEST = "export.json"
_MADE_BY = "gptlab"
_VERSION = 1


def write_manifest(folder: Path, *, format: str, config: ModelConfig) -> None:
    """Write it.

    Raises:
        OSError: It can't be written.
    """
    content = {
        "made_by": _MADE_BY,
        "version": _VERSION,
        "format": format,
        "model": config.model_dump(),
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def is_exported(folder: Path) -> bool:
    """Whether `folder` is an exported model."""
    return _read(folder) is not None


def exported_settings(folder: Path, *, format: str) -> ModelConfig | None:
    """The settings of the model in `folder`, if it was exported into that format.

    Raises:
        ExportError: They are damaged.
    """
    content = _read(folder)
    if content is None or content.get("format") != format:
        return None
    try:
        return ModelConfig(**content["model"])
    except (KeyError, TypeError, ConfigError):
        raise ExportError(f"{folder / MANIFEST} is damaged; export the model again") from None


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(content, dict) and content.get("made_by") == _MADE_BY
    return content if is_ours else None
