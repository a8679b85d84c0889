"""What gptlab-tokenize leaves behind: a folder, and lines in the terminal."""

import os
from pathlib import Path

from gptlab.errors import ConfigError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.inspection import picture

WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Find out, before any work, whether something can be saved to `folder`.

    Raises:
        ConfigError: There is something already, or the folder can't be written.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder} can't be written, for {there} is no folder that you may write to; choose "
            "another --output"
        )
    if there == folder and any(folder.iterdir()) and not overwrite:
        raise ConfigError(f"{folder} exists already; write --overwrite to replace it, or --output")


def check_tokenizer_output(folder: Path, *, overwrite: bool, file: str) -> None:
    """The same for a tokenizer, which replaces nothing but another one of its kind.

    Args:
        folder: Where the tokenizer is to be saved.
        overwrite: Whether one that is there is replaced.
        file: The name of the file that this kind of tokenizer has.

    Raises:
        ConfigError: Something else is there, or the folder can't be written.
    """
    check_output(folder, overwrite=overwrite)
    if any((folder / name).exists() for name in WEIGHTS_FILES):
        raise ConfigError(f"{folder} holds a model, so it is not replaced; choose another --output")
    if folder.exists() and any(folder.iterdir()) and not (folder / file).is_file():
        raise ConfigError(f"{folder} has no {file}, so it is not replaced; choose another --output")


def print_cut(tokenizer: Tokenizer, text: str, ids: list[int], *, shown: int | None = None) -> None:
    """Print how many ids a text has, and the first `shown` tokens, or all, with their borders."""
    size = len(text.encode("utf-8", "surrogatepass"))
    print(f"{len(ids):,} tokens for {size:,} bytes: {len(ids) / max(size, 1):.3f} tokens per byte")
    print(picture(tokenizer, ids[:shown]))
