"""Tensors that lie in parts on several processes, saved without bringing them together.

Each process writes what it has into a safetensors file of its own, and reads what it needs of all
files, however many processes wrote them: torch.distributed.checkpoint in the layout of
https://docs.pytorch.org/docs/stable/distributed.checkpoint.html#torch.distributed.checkpoint.HuggingFaceStorageWriter,
whose own default would unpickle a file.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as read_parts
from torch.distributed.checkpoint.state_dict_saver import save as write_parts

from gptlab.errors import CheckpointError


def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` into `folder`; all processes of the job together, with the same names.

    Of a DTensor, each process writes its part; of any other, which is the same in all of them,
    one process writes the whole.

    Raises:
        CheckpointError: A process could not write; raised in all of them.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _explained(f"can't write {folder}"), _quiet():
        write_parts(dict(tensors), storage_writer=writer)


def load(folder: Path, like: Mapping[str, Tensor]) -> None:
    """Fill the tensors of `like` in place with those of the same names in `folder`.

    No process waits for another. A DTensor takes its part, any other tensor the whole.

    Raises:
        CheckpointError: A file is damaged, a name is missing, or a shape differs.
    """
    saved = keys(folder)
    for name, tensor in like.items():
        if name not in saved:
            raise CheckpointError(f"{folder} has no '{name}'; it is damaged or of another model")
        if saved[name].shape != tensor.shape:
            raise CheckpointError(
                f"'{name}' is {tuple(saved[name].shape)} in {folder}, but the model needs "
                f"{tuple(tensor.shape)}; it is damaged or of another model"
            )
    reader = HuggingFaceStorageReader(str(folder))
    with _explained(f"can't read {folder}"), _quiet():
        read_parts(dict(like), storage_reader=reader, no_dist=True)


def keys(folder: Path) -> dict[str, Tensor]:
    """The names in `folder`, each with a tensor of its whole shape and its type, without content.

    Raises:
        CheckpointError: There is nothing, a file is damaged, or one is missing.
    """
    with _explained(f"can't read {folder}"):
        saved = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    if not saved:
        raise CheckpointError(f"{folder} holds no tensors; name another checkpoint")
    outline = {}
    for name, entry in saved.items():
        assert isinstance(entry, TensorStorageMetadata)
        if sum(chunk.sizes.numel() for chunk in entry.chunks) != entry.size.numel():
            raise CheckpointError(f"{folder} lacks a file: '{name}' is there in part only")
        outline[name] = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
    return outline


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that there is no process group, where there is no need of one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:
        _, (cause, _) = min(error.failures.items())
        raise CheckpointError(f"{what}: {cause}") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{what}: {error}") from error
