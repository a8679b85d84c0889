"""Bare state dicts, as `torch.save` writes them: pickles, of which only tensors are loaded."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.checkpoint.filling import fill, require_fit, without_memory
from gptlab.checkpoint.tensors import taking
from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError
from gptlab.model import GPT


def load_state_dict(
    path: str | Path, config: ModelConfig, *, device: torch.device | str = "cpu"
) -> GPT:
    """The model whose weights are a bare state dict, a `.pth` file, in evaluation mode.

    Raises:
        CheckpointError: The file is no state dict, or does not fit `config`.
    """
    model, tensors = without_memory(config), _read_state_dict(Path(path))
    require_fit(model, tensors, Path(path))
    return fill(model, taking(tensors), device=device)


def implied_settings(path: str | Path, *, n_heads: int) -> dict[str, Any]:
    """The settings that names and shapes in a bare state dict tell, by name of the setting.

    What leaves no trace there is not among them: the kind of norm, GELU or squared ReLU, rotary,
    sinusoidal or no positions, a soft cap.

    Raises:
        CheckpointError: The file is no state dict.
    """
    tensors = _read_state_dict(Path(path))
    implied: dict[str, Any] = {
        "bias": any(name.endswith("o_proj.bias") for name in tensors),
        "qkv_bias": any(name.endswith("qkv_proj.bias") for name in tensors),
        "qk_norm": any(name.endswith("q_norm.weight") for name in tensors),
        "tie_embeddings": "lm_head.weight" not in tensors,
    }
    up = tensors.get("blocks.0.feed_forward.up_proj.weight")
    if up is not None and up.ndim == 2:
        implied["expansion_factor"] = up.shape[0] / up.shape[1]
    qkv = tensors.get("blocks.0.attention.qkv_proj.weight")
    o = tensors.get("blocks.0.attention.o_proj.weight")
    if qkv is not None and o is not None and o.ndim == 2 and len(qkv) > o.shape[1] >= n_heads:
        implied["n_kv_heads"] = (len(qkv) - o.shape[1]) // 2 // (o.shape[1] // n_heads)
        if o.shape[1] != qkv.shape[1]:
            implied["head_width"] = o.shape[1] // n_heads
    if any(name.endswith("gate_proj.weight") for name in tensors):
        implied["activation"] = "swiglu"
    positions = tensors.get("position_embedding.weight")
    if positions is not None:
        implied |= {"positions": "learned", "seq_len": len(positions)}
    return implied


def load_pickle(path: Path, *, mmap: bool = False) -> Any:
    """What `torch.save` wrote, if that is made of tensors and plain values.

    Args:
        path: The file.
        mmap: Leave tensors in the file until they are used.

    Raises:
        CheckpointError: It can't be read, or would call code.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap or None)
    except Exception:
        # An unpickler that meets a damaged or a hostile file may raise anything.
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which gptlab does not load; use "
            "another file, best a .safetensors"
        ) from None


def is_state_dict(value: object) -> bool:
    """Whether this is tensors by name, and nothing else."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if path.suffix in (".safetensors", ".gguf", ".onnx"):
        raise CheckpointError(f"{path} is a part of a model; give the folder that it is in")
    tensors: dict[str, Tensor] = load_pickle(path)
    if not is_state_dict(tensors):
        raise CheckpointError(f"{path} holds no state dict; save model.state_dict()")
    if any(name.startswith("decoder.") for name in tensors):
        raise CheckpointError(
            f"{path} holds an encoder-decoder, whose shape a state dict does not tell; give its "
            "checkpoint folder"
        )
    return tensors
