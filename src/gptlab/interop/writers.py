"""How a model is written in each format, and who reads it back.

Each writer gets a task and a folder, and leaves there all files but `export.json`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from gptlab.checkpoint.state_dict import load_state_dict
from gptlab.config import ModelConfig
from gptlab.interop.gguf_architecture import architecture_of
from gptlab.interop.gguf_file import Type, read_gguf, rounded, write_gguf
from gptlab.interop.huggingface import WEIGHTS, read_huggingface, write_huggingface
from gptlab.interop.onnx_graph import read_onnx, write_onnx
from gptlab.interop.own_family import NAME as OWN_FAMILY
from gptlab.interop.parity import Logits
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

SHARE = 1e-4
"""What logits may be off, as a share of the largest; exactly read weights are summed otherwise."""
SHARE_OF_8_BITS = 1e-2
"""The same where weights have 8 bits, and one between two integers may go to either."""
_GGUF_TYPES: Mapping[torch.dtype, Type] = MappingProxyType(
    {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
)


@dataclass(frozen=True)
class Written:
    """What a format's writer leaves, and how it is checked."""

    weights: str
    reference: GPT
    readers: Mapping[str, Callable[[], Logits]]
    architecture: str = ""
    share: float = SHARE
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A model that is to be written in numbers of a type."""

    model: GPT
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    dtype: torch.dtype
    bits: int | None


def _hf(task: Task, folder: Path) -> Written:
    config = task.model.config
    weights = {name: tensor.to(task.dtype) for name, tensor in _weights(task.model).items()}
    family = write_huggingface(
        folder, _model_of(config, weights), task.tokenizer, chat_template=task.chat_template
    )
    readers: dict[str, Callable[[], Logits]] = {
        "gptlab's reader": lambda: read_huggingface(folder).float()
    }
    notes: tuple[str, ...] = ()
    is_own = family.name == OWN_FAMILY
    if is_own:
        notes = (
            "transformers has no such models of its own: it needs trust_remote_code=True, and "
            "gptlab installed",
        )
    if is_installed():
        readers[NAME] = lambda: read_by_transformers(folder, runs_module=is_own)
        problem = check_tokenizer(folder, task.tokenizer)
        notes += () if problem is None else (problem,)
    else:
        notes += (f"not tried with {NAME}, which is not installed",)
    return Written(
        weights=WEIGHTS,
        reference=_evaluated(config, weights),
        readers=readers,
        architecture=family.architecture,
        notes=notes,
    )


def _gguf(task: Task, folder: Path) -> Written:
    type: Type = "Q8_0" if task.bits else _GGUF_TYPES[task.dtype]
    path, model = folder / "model.gguf", task.model
    notes: tuple[str, ...] = ()
    if model.config.window is not None and model.config.window < model.config.seq_len:
        model = _within_window(model)
        notes = (f"llama.cpp has no window: its context ends at {model.config.seq_len} tokens",)
    notes += write_gguf(path, model, task.tokenizer, type=type, chat_template=task.chat_template)
    config = model.config
    if config.activation == "gelu":
        # What llama.cpp computes is what is read back.
        config = config.replace(activation="gelu_tanh")
        notes = (*notes, "llama.cpp computes GELU by its tanh form, which moves logits a little")
    return Written(
        weights=path.name,
        reference=_evaluated(config, rounded(model, type)),
        readers={"gptlab's reader": lambda: read_gguf(path)},
        architecture=architecture_of(config).name,
        share=SHARE_OF_8_BITS if task.bits else SHARE,
        notes=notes,
    )


def _within_window(model: GPT) -> GPT:
    """The same model for texts so short that its window holds all of them."""
    config, weights = model.config, _weights(model)
    assert config.window is not None
    if "position_embedding.weight" in weights:
        table = weights["position_embedding.weight"]
        weights["position_embedding.weight"] = table[: config.window]
    return _model_of(config.replace(seq_len=config.window, window=None), weights)


def _onnx(task: Task, folder: Path) -> Written:
    path = folder / "model.onnx"
    model = _evaluated(task.model.config, _weights(task.model))
    write_onnx(path, model)
    _save_text_side(task, folder)
    model.use_attention("auto")
    readers = {"ONNX Runtime": lambda: read_onnx(path)}
    return Written(weights=path.name, reference=model, readers=readers)


def _pth(task: Task, folder: Path) -> Written:
    path, config = folder / "model.pth", task.model.config
    weights = {name: _own(tensor.to(task.dtype)) for name, tensor in _weights(task.model).items()}
    _save(path, weights)
    _save_text_side(task, folder)
    return Written(
        weights=path.name,
        reference=_evaluated(config, weights),
        readers={"PyTorch": lambda: load_state_dict(path, config.replace(attention="auto"))},
    )


def _save_text_side(task: Task, folder: Path) -> None:
    """Write what turns text into ids."""
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


WRITERS: Mapping[Format, Callable[[Task, Path], Written]] = MappingProxyType(
    {"hf": _hf, "gguf": _gguf, "onnx": _onnx, "pth": _pth}
)
