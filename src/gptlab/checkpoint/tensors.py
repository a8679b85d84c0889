"""Named tensors in files of the safetensors format (https://github.com/huggingface/safetensors).

The format's own library checks a file's header. It maps the file into memory to read it, and copies
every tensor to write it; here the bytes go straight from the file to the tensor and back, so that
there is one copy of them, and other threads run meanwhile. What was read no longer needs the file:
it may be replaced, overwritten or deleted.
"""

import json
import mmap
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
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
_TYPES = MappingProxyType({name: dtype for dtype, name in _NAMES.items()})


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
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.tensors}


def taking(tensors: MutableMapping[str, Tensor]) -> Callable[[str], Tensor]:
    """What takes a tensor out of `tensors`, by its name, so that its memory has no other owner.

    One whose memory is not all its own and in order, or was taken under another name, is copied.
    """
    taken: set[int] = set()

    def take(name: str) -> Tensor:
        tensor = tensors.pop(name)
        storage = tensor.untyped_storage()
        is_whole = storage.nbytes() == tensor.nbytes and tensor.is_contiguous()
        is_free = storage.data_ptr() not in taken
        taken.add(storage.data_ptr())
        return tensor if is_whole and is_free else tensor.contiguous().clone()

    return take


class TensorFile:
    """An open safetensors file, whose tensors are read one at a time into memory of their own.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is missing or damaged, or has numbers of a type that is not known here.
    """

    tensors: Mapping[str, Tensor]
    """What is in the file: type and shape of each tensor, without memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="pt"), path.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size))
        except (OSError, SafetensorError) as error:
            raise self._damaged(error) from None
        header.pop("__metadata__", None)
        self._starts = {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}
        self.tensors = {name: self._like(name, entry) for name, entry in header.items()}
        self._stream = path.open("rb")

    def read(self, name: str) -> Tensor:
        """The tensor of that name, on the CPU.

        Raises:
            CheckpointError: The file ends before the tensor does.
        """
        like = self.tensors[name]
        tensor = torch.empty(like.shape, dtype=like.dtype)
        content = tensor.reshape(-1).view(torch.uint8).numpy().data
        self._stream.seek(self._starts[name])
        if self._stream.readinto(content) != len(content):
            raise self._damaged(f"it ends within '{name}'")
        return tensor

    def look(self, name: str) -> Tensor:
        """The tensor of that name as it lies in the file, to be read once and then let go.

        Its memory is the system's, and goes back to it whole. Memory for a copy would stay with
        the process, in pieces between what the process keeps.

        Raises:
            CheckpointError: The file ends before the tensor does.
        """
        like = self.tensors[name]
        if not like.nbytes:
            return self.read(name)
        skipped = self._starts[name] % mmap.ALLOCATIONGRANULARITY
        begin, size = self._starts[name] - skipped, skipped + like.nbytes
        try:
            # Private, for torch warns of memory that it may not write to.
            mapped = mmap.mmap(self._stream.fileno(), size, access=mmap.ACCESS_COPY, offset=begin)
        except (OSError, ValueError):
            raise self._damaged(f"it ends within '{name}'") from None
        flat = torch.frombuffer(mapped, dtype=like.dtype, count=like.numel(), offset=skipped)
        return flat.view(like.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def _like(self, name: str, entry: dict[str, Any]) -> Tensor:
        dtype = _TYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(
                f"{self._path}: '{name}' has numbers of type {entry['dtype']}, which gptlab does "
                f"not read; store it as one of {', '.join(_TYPES)}"
            )
        return torch.empty(entry["shape"], dtype=dtype, device="meta")

    def _damaged(self, reason: object) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is missing or damaged: {reason}; use another checkpoint"
        )
