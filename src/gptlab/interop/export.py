"""A model in the formats of others, held against itself before anyone sees it.

It is written into a hidden folder and read back from there, by what others read it with where that
is installed. Only when that gives the same logits does the folder get its name.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from gptlab.checkpoint.staging import publish, seal, staged, writing
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop.exportable import require_exportable
from gptlab.interop.manifest import is_exported, write_manifest
from gptlab.interop.parity import Parity, require_parity
from gptlab.interop.writers import WRITERS, Format, Task
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatTemplate

Precision = Literal["fp32", "fp16", "bf16"]

_DTYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})


@dataclass(frozen=True)
class Exported:
    """A folder that was written."""

    folder: Path
    weights: Path
    """The file with the weights."""
    architecture: str
    """What the format calls such models; empty where it has no name for them."""
    parities: tuple[Parity, ...]
    """How near each reader of it came to the model."""
    notes: tuple[str, ...] = ()
    """Where others will not do quite the same."""


def export(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    format: Format,
    precision: Precision | None = None,
    bits: int | None = None,
    chat_template: ChatTemplate | None = None,
) -> Exported:
    """Write `model` and its tokenizer into `folder` for the tools of others, whole or not at all.

    Args:
        model: No quantized one.
        tokenizer: The one that it was trained with.
        folder: A new folder; an exported model that is there is replaced.
        format: "hf" for transformers, "gguf" for llama.cpp, "onnx" for ONNX Runtime, or "pth" for
            a bare state dict of PyTorch.
        precision: Type of the numbers; the model's own if None.
        bits: 8 for matrices of 8 bits, in "gguf" alone.
        chat_template: How the model's conversations are written, which is written along.

    Raises:
        ExportError: The format has no such model, gives other logits, or needs a package.
        CheckpointError: It can't be written, or something else is at `folder`.
        ConfigError: The format has no such numbers, or the model is quantized.
    """
    folder = Path(folder)
    dtype = model.dtype if precision is None else _DTYPES[precision]
    _check(model, tokenizer, format, dtype, bits)
    require_free(folder)
    target = folder.resolve()
    with writing(folder), _with_reasons(), staged(target) as partial:
        written = WRITERS[format](Task(model, tokenizer, chat_template, dtype, bits), partial)
        parities = tuple(
            require_parity(written.reference, read(), reader=name, share=written.share)
            for name, read in written.readers.items()
        )
        write_manifest(partial, format=format, config=model.config)
        seal(partial)
        publish(partial, target)
    weights = folder / written.weights
    return Exported(folder, weights, written.architecture, parities, written.notes)


def _check(
    model: GPT, tokenizer: Tokenizer, format: Format, dtype: torch.dtype, bits: int | None
) -> None:
    require_exportable(model)
    if bits is not None and (format, bits) != ("gguf", 8):
        raise ConfigError(
            f"{bits} bits a weight are not written as {format}; 8 are as gguf, 8 and 4 as gptlab"
        )
    if dtype not in _DTYPES.values():
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(f"the model's numbers are {name}; write --precision fp32")
    if format == "onnx" and dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"ONNX graphs have numbers of 32 bits, not {name}; write --precision fp32"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model knows "
            f"{model.config.vocab_size}; give the tokenizer it was trained with"
        )


def require_free(folder: Path) -> None:
    """Refuse to write where something would be lost that is no exported model.

    Raises:
        CheckpointError: There is such a thing at `folder`, or its name is a file's.
    """
    if folder.suffix in (".gguf", ".onnx", ".pth"):
        raise CheckpointError(
            f"{folder} is to be a folder, in which the model lies beside its tokenizer; write "
            f"{folder.with_suffix('')}"
        )
    target = folder.resolve()
    is_empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not is_empty and not is_exported(target):
        raise CheckpointError(f"{folder} is no exported model; choose another folder")


@contextmanager
def _with_reasons() -> Iterator[None]:
    """Give an error of the system its reason where a library left it out."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        # A short write, of which NumPy says only how short.
        raise OSError(errno.ENOSPC, "No space left on device") from error
