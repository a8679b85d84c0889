"""The weights in a folder of Hugging Face's, in one file or in several, read one at a time.

    model.safetensors, or model.safetensors.index.json and the files that it names
    pytorch_model.bin, or pytorch_model.bin.index.json and the files that it names

A `.bin` file is a pickle. It is read by `weights_only` alone, which makes tensors and calls no
code.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gptlab.checkpoint.state_dict import is_state_dict, load_pickle
from gptlab.checkpoint.tensors import TensorFile, taking
from gptlab.errors import CheckpointError

INDEX = ".index.json"
FILES = ("model.safetensors", "pytorch_model.bin")

_Readers = tuple[Callable[[str], Tensor], Callable[[str], Tensor]]


@dataclass(frozen=True)
class StoredTensors:
    """Tensors that can be read once each."""

    tensors: Mapping[str, Tensor]
    """Type and shape of each, without memory."""
    read: Callable[[str], Tensor]
    """The tensor of a name, in memory of its own on the CPU."""
    look: Callable[[str], Tensor]
    """The tensor of a name to make another one of, perhaps in memory that is the file's."""
    source: Path
    """The file, or the index of several."""


@contextmanager
def open_stored(folder: Path) -> Iterator[StoredTensors]:
    """The weights in `folder`, while it lasts.

    Raises:
        CheckpointError: There are none, or a file is missing, damaged, outside of the folder, not
            what its index says, or a pickle of more than tensors.
    """
    source, files = _sources(folder)
    with ExitStack() as stack:
        tensors: dict[str, Tensor] = {}
        readers: dict[str, _Readers] = {}
        for file, expected in files.items():
            found, both = _opened(file, stack)
            if expected is not None and expected != found.keys():
                odd = min(expected ^ found.keys())
                place = f"puts '{odd}' into" if odd in expected else f"knows no '{odd}' in"
                raise CheckpointError(
                    f"{source} {place} {file.name}, which says otherwise; files may be "
                    "swapped, download them again"
                )
            tensors |= found
            readers |= dict.fromkeys(found, both)
        yield StoredTensors(
            tensors,
            read=lambda name: readers[name][0](name),
            look=lambda name: readers[name][1](name),
            source=source,
        )


def _sources(folder: Path) -> tuple[Path, dict[Path, set[str] | None]]:
    """What says where tensors are, and for each file the names that it should have, if known."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name, {_within(folder, name): None}
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            files: dict[Path, set[str] | None] = {}
            for tensor, file in _weight_map(index).items():
                names = files.setdefault(_within(folder, file), set())
                assert names is not None
                names.add(tensor)
            return index, files
    raise CheckpointError(
        f"{folder} holds no weights (no {', '.join(FILES)}, nor an index of one); download it again"
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        entries = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError):
        entries = {}
    if not entries or not all(isinstance(file, str) for file in entries.values()):
        raise CheckpointError(f"{index} is damaged; download it again")
    return entries


def _within(folder: Path, name: str) -> Path:
    """The file `name` of `folder`.

    It may be a link into the same cache of huggingface_hub, whose snapshots link to its blobs.
    """
    path, home = folder / name, folder.resolve()
    is_snapshot = home.parent.name == "snapshots" and (home.parent.parent / "blobs").is_dir()
    homes = [home, *([home.parent.parent / "blobs"] if is_snapshot else [])]
    is_plain = name not in ("", ".", "..") and not set("/\\:") & set(name)
    if not is_plain or not any(path.resolve().is_relative_to(one) for one in homes):
        raise CheckpointError(
            f"{folder} names the file '{name}', which lies outside of it; put the file there"
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download it again")
    return path


def _opened(file: Path, stack: ExitStack) -> tuple[Mapping[str, Tensor], _Readers]:
    """Type and shape of each tensor of a file, and what reads it and looks at it."""
    if file.suffix == ".safetensors":
        opened = stack.enter_context(TensorFile(file))
        return opened.tensors, (opened.read, opened.look)
    tensors = load_pickle(file)
    if not is_state_dict(tensors):
        raise CheckpointError(f"{file} holds no named tensors; use another file")
    likes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    take = taking(tensors)
    return likes, (take, take)
