"""A run at one step: copied out of the way of training, written to a checkpoint, and read back."""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptlab.checkpoint import TRAINER, checkpoints_in, load_tensors, read_header
from gptlab.checkpoint.files import ADAPTER, WEIGHTS
from gptlab.checkpoint.models import write_model
from gptlab.checkpoint.tensors import write_tensors
from gptlab.config import HeadSettings, LoRA, ModelConfig
from gptlab.config.transformer import Architecture
from gptlab.errors import CheckpointError
from gptlab.model.lora import is_adapter
from gptlab.training import sharded
from gptlab.training.dtensors import is_sharded, whole
from gptlab.training.loss_scale import LossScale
from gptlab.training.state import (
    TrainState,
    learning,
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
    architecture: Architecture
    config: ModelConfig
    model: Mapping[str, Tensor]
    """The weights, or their average, by name; with a `base` those of the adapters alone."""
    trainer: Mapping[str, Tensor]
    """What a resume needs beside it, without sharded tensors."""
    state: Mapping[str, Any]
    """The rest, as JSON holds it."""
    head: HeadSettings | None = None
    """What stands on the model in the place of next-token logits."""
    lora: LoRA | None = None
    """What the adapters among the weights are."""
    base: Path | None = None
    """A former checkpoint's file that holds what adapters are beside, which never changes."""


def take_snapshot(session: "Session") -> Snapshot:
    """The run as it is now. All processes must call it; only the first one gets the tensors.

    What does not learn is not copied, if it is on the CPU.
    """
    model, average = session.model, session.average
    weights: dict[str, Tensor] = dict(model.state_dict())
    if average is not None:
        weights |= average.tensors()
    base = _base_of(session)
    if base is not None:
        weights = {name: tensor for name, tensor in weights.items() if is_adapter(name)}
    still = model.state_dict().keys() - learning(model).keys()
    tensors = training_tensors(model, session.optimizers, average)
    unsharded = {name: tensor for name, tensor in tensors.items() if not is_sharded(tensor)}
    keep = session.ranks.is_first
    snapshot = Snapshot(
        step=session.state.step,
        architecture=model.architecture,
        config=model.config,
        lora=model.lora,
        base=base,
        model=_copies(weights, keep=keep, still=still),
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
    write_model(
        folder,
        snapshot.config,
        snapshot.model,
        architecture=snapshot.architecture,
        step=snapshot.step,
        lora=snapshot.lora,
        head=snapshot.head,
        base=snapshot.base,
    )
    for name, content in tokenizer.items():
        (folder / name).parent.mkdir(exist_ok=True)
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
    adapter = checkpoint / ADAPTER
    weights = load_tensors(adapter if adapter.is_file() else checkpoint / WEIGHTS)
    tensors = load_tensors(trainer / _TENSORS)
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


def _base_of(session: "Session") -> Path | None:
    """The file of a former checkpoint of the run that holds the base of its adapters."""
    if session.model.lora is None:
        return None
    expected = session.model.lora.model_dump(mode="json")
    found = None
    if session.ranks.is_first:
        for former in checkpoints_in(session.folder):
            with suppress(CheckpointError):
                if read_header(former).get("lora") == expected:
                    found = str(former / WEIGHTS)
    path = session.ranks.share(found)
    return None if path is None else Path(path)


def _copies(
    tensors: Mapping[str, Tensor], *, keep: bool, still: Collection[str] = ()
) -> dict[str, Tensor]:
    """Whole tensors in the memory of the CPU; empty, but gathered alike, unless `keep`.

    Those whose names are in `still` need no copy.
    """
    copies = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor)
        if keep:
            is_still = name in still and gathered.device.type == "cpu"
            copies[name] = gathered.detach() if is_still else _copy(gathered.detach())
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
