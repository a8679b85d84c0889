"""Named tensors in files of the safetensors format (https://github.com/huggingface/safetensors).

The files are written here and read by the format's own library. Its writer copies every tensor,
which takes twice the memory and twice the time; here the bytes go from the tensor to the file, and
other threads run meanwhile.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptlab.checkpoint.staging import writing
from gptlab.errors import CheckpointError

_NAMES = MappingProxyType(
    {
        torch.float64: "F64",
        torch.int64: "I64",
        torch.float32: "F32",
        torch.int32: "I32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.int16: "I16",
        torch.bool: "BOOL",
        torch.int8: "I8",
        torch.uint8: "U8",
    }
)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors, of any layout and on any device, as safetensors.

    Args:
        path: The file.
        tensors: What to write. Those that share memory are written each for itself.
        metadata: Written along.

    Raises:
        CheckpointError: They can't be written, on a full disk for example.
    """
    with writing(path):
        write_tensors(path, tensors, metadata=metadata)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """`save_tensors` for a caller that explains an OSError itself."""
    # The format wants no gaps, and larger elements first keep every tensor aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            content = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            stream.write(content.numpy().data)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors from a safetensors file.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged: {error}; use another checkpoint"
        ) from None
