"""A model in the formats of others, held against itself before anyone sees it.

It is written into a hidden folder and read back from there, by what others read it with where that
is installed. Only when that gives the same logits does the folder get its name.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from gptlab.checkpoint.models import load_state_dict
from gptlab.checkpoint.staging import publish, seal, staged, writing
from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop.gguf_architecture import architecture_of
from gptlab.interop.gguf_file import Type, read_gguf, rounded, write_gguf
from gptlab.interop.huggingface import WEIGHTS, read_huggingface, write_huggingface
from gptlab.interop.manifest import is_exported, write_manifest
from gptlab.interop.onnx_graph import read_onnx, write_onnx
from gptlab.interop.own_family import NAME as OWN_FAMILY
from gptlab.interop.parity import Logits, Parity, require_parity
from gptlab.interop.transformers_check import (
    NAME,
    check_tokenizer,
    is_installed,
    read_by_transformers,
)
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatTemplate

Format = Literal["hf", "gguf", "onnx", "pth"]
Precision = Literal["fp32", "fp16", "bf16"]

SHARE = 1e-4
"""What logits may be off, as a share of the largest; exactly read weights are summed otherwise."""
SHARE_OF_8_BITS = 1e-2
"""The same where weights have 8 bits, and one between two integers may go to either."""
_DTYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})
_GGUF_TYPES: Mapping[torch.dtype, Type] = MappingProxyType(
    {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
)


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


@dataclass(frozen=True)
class _Written:
    """What a format's writer leaves, and how it is checked."""

    weights: str
    reference: GPT
    readers: Mapping[str, Callable[[], Logits]]
    architecture: str = ""
    share: float = SHARE
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    """A model that is to be written in numbers of a type."""

    model: GPT
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    dtype: torch.dtype
    bits: int | None


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
        written = _WRITERS[format](_Task(model, tokenizer, chat_template, dtype, bits), partial)
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
    if model.quantization is not None:
        raise ConfigError(
            f"the model has {model.quantization.bits} bits a weight, as gptlab alone reads them; "
            "export the one it was made from"
        )
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


def _hf(task: _Task, folder: Path) -> _Written:
    config = task.model.config
    weights = {name: tensor.to(task.dtype) for name, tensor in _weights(task.model).items()}
    family = write_huggingface(
        folder, _model_of(config, weights), task.tokenizer, chat_template=task.chat_template
    )
    readers: dict[str, Callable[[], Logits]] = {
        "gptlab's reader": lambda: read_huggingface(folder).float()
    }
    notes: tuple[str, ...] = ()
    if family.name == OWN_FAMILY:
        notes = (
            "transformers has no such models of its own: it needs trust_remote_code=True, and "
            "gptlab installed",
        )
    if is_installed():
        readers[NAME] = lambda: read_by_transformers(folder)
        problem = check_tokenizer(folder, task.tokenizer)
        notes += () if problem is None else (problem,)
    else:
        notes += (f"not tried with {NAME}, which is not installed",)
    return _Written(
        weights=WEIGHTS,
        reference=_evaluated(config, weights),
        readers=readers,
        architecture=family.architecture,
        notes=notes,
    )


def _gguf(task: _Task, folder: Path) -> _Written:
    type: Type = "Q8_0" if task.bits else _GGUF_TYPES[task.dtype]
    path = folder / "model.gguf"
    notes = write_gguf(
        path, task.model, task.tokenizer, type=type, chat_template=task.chat_template
    )
    config = task.model.config
    if config.activation == "gelu":
        # What llama.cpp computes is what is read back.
        config = config.replace(activation="gelu_tanh")
        notes = (*notes, "llama.cpp computes GELU by its tanh form, which moves logits a little")
    return _Written(
        weights=path.name,
        reference=_evaluated(config, rounded(task.model, type)),
        readers={"gptlab's reader": lambda: read_gguf(path)},
        architecture=architecture_of(config).name,
        share=SHARE_OF_8_BITS if task.bits else SHARE,
        notes=notes,
    )


def _onnx(task: _Task, folder: Path) -> _Written:
    path = folder / "model.onnx"
    model = _evaluated(task.model.config, _weights(task.model))
    write_onnx(path, model)
    _save_text_side(task, folder)
    model.use_attention("auto")
    readers = {"ONNX Runtime": lambda: read_onnx(path)}
    return _Written(weights=path.name, reference=model, readers=readers)


def _pth(task: _Task, folder: Path) -> _Written:
    path, config = folder / "model.pth", task.model.config
    weights = {name: _own(tensor.to(task.dtype)) for name, tensor in _weights(task.model).items()}
    _save(path, weights)
    _save_text_side(task, folder)
    return _Written(
        weights=path.name,
        reference=_evaluated(config, weights),
        readers={"PyTorch": lambda: load_state_dict(path, config.replace(attention="auto"))},
    )


def _save_text_side(task: _Task, folder: Path) -> None:
    task.tokenizer.save(folder)
    if task.chat_template is not None:
        task.chat_template.save(folder)


def _save(path: Path, weights: Mapping[str, Tensor]) -> None:
    try:
        with path.open("wb") as stream:
            torch.save(dict(weights), stream)
    except RuntimeError as error:
        # PyTorch says of a file without an end that it has none, and not why.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _weights(model: GPT) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def _own(tensor: Tensor) -> Tensor:
    """`tensor` in memory that is all its own, as all of the memory is written."""
    is_own = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.is_contiguous()
    return tensor if is_own else tensor.clone(memory_format=torch.contiguous_format)


def _evaluated(config: ModelConfig, weights: Mapping[str, Tensor]) -> GPT:
    """A model that computes in float32 on the CPU."""
    return _model_of(config, {name: tensor.cpu().float() for name, tensor in weights.items()})


def _model_of(config: ModelConfig, weights: Mapping[str, Tensor]) -> GPT:
    """The model of these weights, whose memory it shares, in evaluation mode."""
    with torch.device("meta"):
        model = GPT(config.replace(attention="auto"))
    model.load_state_dict(dict(weights), assign=True)
    # Tables of positions, which no file holds, are made where the weights are.
    model._apply(lambda tensor: tensor)
    return model.eval()


_WRITERS: Mapping[Format, Callable[[_Task, Path], _Written]] = MappingProxyType(
    {"hf": _hf, "gguf": _gguf, "onnx": _onnx, "pth": _pth}
)
