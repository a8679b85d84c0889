"""One folder is one self-contained model: configuration, weights, tokenizer, and training state.

    config.json          format, version, architecture, step, and the model's settings
    model.safetensors    weights
    tokenizer files      as the tokenizer saves them
    trainer/             what resuming needs, where the training loop saved it
    checksums.json       SHA-256 of every file above

A folder is written under a temporary name, flushed, and renamed, so that a reader never sees half
of one. No pickle is loaded but a bare state dict that the user names, and that by `weights_only`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError, ConfigError, TokenizerError
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer, load_tokenizer

FORMAT = "gptlab"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CHECKSUMS = "checksums.json"
TRAINER = "trainer"


def save(
    folder: str | Path,
    model: GPT,
    tokenizer: Tokenizer | None = None,
    *,
    step: int = 0,
    extra: Callable[[Path], None] | None = None,
) -> Path:
    """Write `model` and its tokenizer into `folder`, whole or not at all.

    Args:
        folder: A new folder; one that is there already is replaced.
        model: What to save.
        tokenizer: Saved along, so that the folder can turn text into text.
        step: Optimizer steps taken; decides which checkpoint of a run is the newest.
        extra: Writes more files into the folder that it is given.

    Raises:
        CheckpointError: The weights can't be written.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        header = {
            "format": FORMAT,
            "version": VERSION,
            "architecture": "gpt",
            "step": step,
            "model": model.config.model_dump(),
        }
        (partial / CONFIG).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        save_tensors(partial / WEIGHTS, model.state_dict())
        if tokenizer is not None:
            tokenizer.save(partial)
        if extra is not None:
            extra(partial)
        _seal(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load(path: str | Path, *, device: torch.device | str = "cpu") -> tuple[GPT, Tokenizer]:
    """The model, in evaluation mode, and the tokenizer of a checkpoint or of a run's newest one.

    Raises:
        CheckpointError: There is none, it is damaged, or it has no tokenizer.
    """
    folder = find_checkpoint(path)
    verify(folder)
    model = load_model(folder, device=device)
    try:
        return model, load_tokenizer(folder)
    except TokenizerError as error:
        raise CheckpointError(f"{folder} has no usable tokenizer: {error}") from None


def load_model(folder: Path, *, device: torch.device | str = "cpu") -> GPT:
    """The model of one checkpoint folder, in evaluation mode; checksums are not looked at."""
    header = read_header(folder)
    try:
        config = ModelConfig(**header["model"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    return _filled(config, load_tensors(folder / WEIGHTS), folder / WEIGHTS, device)


def load_state_dict(
    path: str | Path, config: ModelConfig, *, device: torch.device | str = "cpu"
) -> GPT:
    """The model whose weights are a bare state dict, a `.pth` file, in evaluation mode.

    Raises:
        CheckpointError: The file is no state dict, or does not fit `config`.
    """
    path = Path(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    except Exception:
        # An unpickler that meets a damaged or a hostile file may raise anything.
        raise CheckpointError(
            f"{path} is no state dict of plain tensors; save one with "
            "torch.save(model.state_dict(), path)"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} holds no state dict; save model.state_dict()")
    return _filled(config, tensors, path, device)


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
    if not path.exists():
        numbered = [folder for folder in path.parent.glob(f"{path.name}-*") if _is_one(folder)]
        if not numbered:
            raise CheckpointError(
                f"{path} does not exist; give a run, a checkpoint folder, or train one with "
                "gptlab-train"
            )
        return max(numbered, key=_age)
    if _is_one(path):
        return path
    found = [folder for folder in path.iterdir() if _is_one(folder)] if path.is_dir() else []
    if resumable:
        found = [folder for folder in found if (folder / TRAINER).is_dir()]
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint; give a run or a checkpoint folder")
    return max(found, key=_age)


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
    if header["version"] != VERSION:
        raise CheckpointError(
            f"{folder} has format version {header['version']}, but this gptlab reads {VERSION}; "
            "use the gptlab that wrote it"
        )
    return header


def verify(folder: Path) -> None:
    """Hold every file against its checksum.

    Raises:
        CheckpointError: A file is missing or was changed.
    """
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{folder / CHECKSUMS} is missing or damaged") from None
    for name, expected in checksums.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; use another checkpoint")
        if _digest(folder / name) != expected:
            raise CheckpointError(f"{folder / name} is damaged; use another checkpoint")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors.

    Raises:
        CheckpointError: They can't be written, on a full disk for example.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
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


def _filled(
    config: ModelConfig, tensors: Mapping[str, Tensor], source: Path, device: torch.device | str
) -> GPT:
    model = GPT(config)
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            problem = "lacks" if name not in tensors else "has an unknown"
            raise CheckpointError(f"{source} {problem} tensor '{name}'; check the model's settings")
        if tensors[name].shape != expected[name].shape:
            raise CheckpointError(
                f"{source}: '{name}' is {tuple(tensors[name].shape)}, but the settings make it "
                f"{tuple(expected[name].shape)}; check --vocab_size, --embed_dim, --num_layers "
                "and --n_heads"
            )
    model.load_state_dict(dict(tensors))
    return model.to(device).eval()


def _is_one(folder: Path) -> bool:
    return not folder.name.startswith(".") and (folder / WEIGHTS).is_file()


def _age(folder: Path) -> tuple[int, bool, str]:
    return read_header(folder)["step"], (folder / TRAINER).is_dir(), folder.name


def _seal(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    checksums = {file.relative_to(folder).as_posix(): _digest(file) for file in files}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")
    for path in [folder / CHECKSUMS, *files, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        _flush(path)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
