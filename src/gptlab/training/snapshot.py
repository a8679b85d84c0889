"""A run at one step: copied out of the way of training, written to a checkpoint, and read back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptlab.checkpoint import TRAINER, load_tensors
from gptlab.checkpoint.files import WEIGHTS
from gptlab.checkpoint.models import write_model
from gptlab.checkpoint.tensors import write_tensors
from gptlab.config import HeadSettings, ModelConfig
from gptlab.errors import CheckpointError
from gptlab.training import sharded
from gptlab.training.dtensors import is_sharded, whole
from gptlab.training.loss_scale import LossScale
from gptlab.training.state import (
    TrainState,
    parameter_of,
    restore_tensors,
    training_tensors,
)
from gptlab.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from gptlab.training.session import Session

VERSION = 2
"""Of what lies in `trainer/`."""
SHARDS = "shards"
_TENSORS = "optimizer.safetensors"
_STATE = "state.json"


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is written from, in memory that training does not touch."""

    step: int
    config: ModelConfig
    model: Mapping[str, Tensor]
    """What model.safetensors holds: the weights, or their average."""
    trainer: Mapping[str, Tensor]
    """What a resume needs beside it, without sharded tensors."""
    state: Mapping[str, Any]
    """The rest, as JSON holds it."""
    head: HeadSettings | None = None
    """What stands on the model in the place of next-token logits."""


def take_snapshot(session: "Session") -> Snapshot:
    """The run as it is now. All processes must call it; only the first one gets the tensors."""
    model, average = session.model, session.average
    weights: dict[str, Tensor] = dict(model.state_dict())
    if average is not None:
        weights |= average.tensors()
    tensors = training_tensors(model, session.optimizers, average)
    unsharded = {name: tensor for name, tensor in tensors.items() if not is_sharded(tensor)}
    keep = session.ranks.is_first
    snapshot = Snapshot(
        step=session.state.step,
        config=model.config,
        model=_copies(weights, keep=keep),
        trainer=_copies(unsharded, keep=keep),
        state={
            "version": VERSION,
            "state": session.state.as_json(),
            "loss_scale": session.scale.state_dict(),
        },
        head=None if model.head is None else model.head.settings,
    )
    if session.arithmetic.device.type == "cuda":
        torch.cuda.synchronize(session.arithmetic.device)
    return snapshot


def sharded_tensors(session: "Session") -> dict[str, Tensor]:
    """What a resume needs and each process holds a part of; empty without FSDP."""
    tensors = training_tensors(session.model, session.optimizers, session.average)
    return {name: tensor for name, tensor in tensors.items() if is_sharded(tensor)}


def write_snapshot(folder: Path, snapshot: Snapshot, *, tokenizer: Mapping[str, bytes]) -> None:
    """Write a checkpoint into `folder`, which may hold shards; it is not sealed yet.

    Args:
        folder: Where to.
        snapshot: What.
        tokenizer: The tokenizer's files, by name.

    Raises:
        OSError: It can't be written.
    """
    trainer = folder / TRAINER
    trainer.mkdir(parents=True, exist_ok=True)
    write_model(folder, snapshot.config, snapshot.model, step=snapshot.step, head=snapshot.head)
    for name, content in tokenizer.items():
        (folder / name).write_bytes(content)
    write_tensors(trainer / _TENSORS, snapshot.trainer)
    text = json.dumps(snapshot.state, indent=1)
    (trainer / _STATE).write_text(text + "\n", encoding="utf-8")


def restore(
    checkpoint: Path,
    *,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: WeightAverage | None,
    scale: LossScale,
) -> TrainState:
    """Load a checkpoint's weights and its `trainer/`; where the run stood.

    All processes must call it. Checksums are not looked at.

    Args:
        checkpoint: Its folder.
        model: Gets its weights, sharded or not.
        optimizers: Made for this model; they get their state.
        average: Of this model, if the run has one; gets what the model file holds.
        scale: Gets its state.

    Raises:
        CheckpointError: Something is missing, damaged, of a former gptlab or of another model.
    """
    trainer = checkpoint / TRAINER
    saved = _read_state(trainer / _STATE)
    try:
        state = TrainState.from_json(saved["state"])
        scale.load_state_dict(saved["loss_scale"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{trainer / _STATE} is damaged; use another checkpoint") from None
    weights, tensors = load_tensors(checkpoint / WEIGHTS), load_tensors(trainer / _TENSORS)
    if (trainer / SHARDS).is_dir():
        tensors |= _read_shards(trainer / SHARDS, dict(model.named_parameters()))
    try:
        restore_tensors(weights, tensors, model=model, optimizers=optimizers, average=average)
    except CheckpointError as error:
        raise CheckpointError(
            f"{checkpoint}: {error}; resume with the settings that the run was started with"
        ) from None
    return state


def _read_shards(folder: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of each tensor as much as this process has of its parameter."""
    tensors = {}
    for label, saved in sharded.keys(folder).items():
        name, _ = parameter_of(label)
        parameter = parameters.get(name)
        if parameter is None or parameter.shape != saved.shape:
            raise CheckpointError(f"{folder} is of another model: see '{name}' in it")
        tensors[label] = torch.empty_like(parameter.detach(), dtype=saved.dtype)
    sharded.load(folder, tensors)
    return tensors


def _copies(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors in the memory of the CPU; empty, but gathered alike, unless `keep`."""
    copies = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor)
        if keep:
            copies[name] = _copy(gathered.detach())
    return copies


def _copy(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.to("cpu", copy=True)
    # Memory that the GPU reaches by itself takes a fraction of the time; torch uses it again.
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{path} is missing or damaged; use another checkpoint") from None
    version = saved.get("version", 1) if isinstance(saved, dict) else None
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, but this gptlab reads {VERSION}; go on with the "
            "gptlab that wrote it, or start afresh with another --experiment_name"
        )
    return dict(saved)
