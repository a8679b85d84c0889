"""The state of a run beside its weights, and how it is saved and restored."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.checkpoint import TRAINER, load_tensors, save_tensors
from gptlab.errors import CheckpointError

_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"


@dataclass
class TrainState:
    """Where a run stands. Batches and dropout follow from the seed and `step` alone."""

    step: int = 0
    texts: list[str] = field(default_factory=list)
    """Digests of the training and the evaluation tokens."""
    eval_loss: float | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    loss_sum: float = 0.0
    """Loss of the steps since the last record of metrics."""
    loss_weight: float = 0.0
    samples_size: int = 0
    """Bytes of samples.txt that belong to the steps so far."""
    elapsed_seconds: float = 0.0

    def note_evaluation(self, loss: float) -> bool:
        """Count an evaluation; whether it is the best so far."""
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_loss = loss
        self.eval_loss = loss
        self.evaluations_since_best = 0 if is_best else self.evaluations_since_best + 1
        return is_best


def save_state(
    folder: Path,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Write `trainer/` into the checkpoint `folder`."""
    trainer = folder / TRAINER
    trainer.mkdir()
    names = _names(model, optimizer)
    moments = {
        f"{names[index]}:{key}": value
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }
    save_tensors(trainer / _OPTIMIZER, moments)
    text = json.dumps({**asdict(state), "scaler": scaler.state_dict()}, indent=1)
    (trainer / _STATE).write_text(text + "\n", encoding="utf-8")


def restore_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> TrainState:
    """Load `trainer/` of the checkpoint `folder` into optimizer and scaler; the run's state.

    Raises:
        CheckpointError: It is missing, damaged, or of another model.
    """
    trainer = folder / TRAINER
    try:
        values: dict[str, Any] = json.loads((trainer / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{trainer / _STATE} is missing or damaged") from None
    scaler.load_state_dict(values.pop("scaler"))
    indices = {name: index for index, name in enumerate(_names(model, optimizer))}
    moments: dict[int, dict[str, Tensor]] = {}
    for label, tensor in load_tensors(trainer / _OPTIMIZER).items():
        name, _, key = label.rpartition(":")
        if name not in indices:
            raise CheckpointError(f"{trainer / _OPTIMIZER} is of another model: it has '{name}'")
        moments.setdefault(indices[name], {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return TrainState(**values)


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in its order."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]
