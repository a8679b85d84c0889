"""A model of ours from stored tensors of a family, which are first held against its settings."""

import re
from pathlib import Path

import torch
from torch import Tensor

from gptlab.checkpoint.filling import fill, without_memory
from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError
from gptlab.interop.family import Family
from gptlab.interop.forms import SAME
from gptlab.interop.stored import StoredTensors
from gptlab.model import GPT

_NUMBER = re.compile(r"(?:^|\.)(\d{1,9})\.")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def read_model(
    family: Family,
    config: ModelConfig,
    stored: StoredTensors,
    *,
    settings: str,
    device: torch.device | str,
) -> GPT:
    """The model, in evaluation mode, in the type of the stored numbers.

    Args:
        family: Whose names the tensors have.
        config: What they should be.
        stored: The tensors; each is read once.
        settings: What to call the source of `config` in an error.
        device: Where the model goes.

    Raises:
        CheckpointError: A tensor is missing, unknown, or of another shape or kind of number.
    """
    # What says that there are millions of layers is refused at the first one that is not there.
    layers = min(config.num_layers, _layers(stored) + 1)
    model = without_memory(config.replace(num_layers=layers))
    names = _fitting_names(family, model, stored, settings)
    model.to(_common_type([stored.tensors[name] for name in names.values()], stored.source))

    def read(name: str) -> Tensor:
        theirs, form = family.stored(name)
        if form is SAME:
            return stored.read(names[theirs[0]])
        found = [stored.look(names[one]) for one in theirs]
        ours = form.to_ours(found, config)
        # What had nothing to rearrange, a bias for example.
        return ours.clone() if ours.data_ptr() == found[0].data_ptr() else ours

    return fill(model, read, device=device)


def _layers(stored: StoredTensors) -> int:
    """How many layers there are tensors of, by their names."""
    numbers = [int(number) for name in stored.tensors for number in _NUMBER.findall(name)]
    return max(numbers, default=-1) + 1


def _fitting_names(
    family: Family, model: GPT, stored: StoredTensors, settings: str
) -> dict[str, str]:
    """The stored name of each canonical one that `model` needs, once all of them fit it."""
    expected: dict[str, Tensor] = {}
    for name, like in model.state_dict().items():
        expected |= family.to_theirs(name, like, model.config)
    names: dict[str, str] = {}
    for name in stored.tensors:
        canonical = family.canonical(name)
        if canonical in expected and canonical not in names:
            names[canonical] = name
        elif not _says_nothing(family, canonical, tied=model.config.tie_embeddings):
            raise CheckpointError(
                f"{stored.source} has an unknown tensor '{name}'; its {settings} makes a model of "
                f"the family {family.name} without it"
            )
    for name, like in expected.items():
        if name not in names:
            raise CheckpointError(
                f"{stored.source} lacks the tensor '{name}', which its {settings} makes part of "
                f"a {family.name}; one of the two is damaged or of another model"
            )
        shape = stored.tensors[names[name]].shape
        if shape != like.shape:
            raise CheckpointError(
                f"{stored.source}: '{names[name]}' is {tuple(shape)}, but its {settings} makes it "
                f"{tuple(like.shape)}; one of the two is of another model"
            )
    return names


def _says_nothing(family: Family, name: str, *, tied: bool) -> bool:
    is_tied_head = tied and name in family.stored("lm_head.weight")[0]
    return is_tied_head or family.is_ignored(name)


def _common_type(tensors: list[Tensor], source: Path) -> torch.dtype:
    """A type that holds all numbers of `tensors`."""
    common = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{source} has numbers of type {str(tensor.dtype).removeprefix('torch.')}, as "
                "quantized models do, which gptlab does not read; use the model it was made from"
            )
        common = torch.promote_types(common, tensor.dtype)
    return common
