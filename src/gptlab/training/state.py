"""The state of a run beside its model: where it stands, and its optimizers' tensors by name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.errors import CheckpointError
from gptlab.training.dtensors import is_sharded
from gptlab.training.weight_average import WeightAverage

_OPTIMIZER = "optimizer/"
_WEIGHTS = "weights/"


@dataclass
class TrainState:
    """Where a run stands. Batches and dropout follow from the seed and `step` alone."""

    step: int = 0
    texts: list[str] = field(default_factory=list)
    """Digests of the training and the evaluation tokens."""
    eval_loss: float | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    examined: int = 0
    """Step of the last evaluation."""
    skipped_steps: int = 0
    """Steps left out so far, because their numbers were not finite."""
    bad_steps: int = 0
    """How many of them came last, one after another."""
    tokens: int = 0
    """Tokens that the steps so far predicted."""
    objective_sum: float = 0.0
    """This and the other sums: over the steps since the last record of metrics."""
    objective_weight: float = 0.0
    nats_sum: float = 0.0
    tokens_sum: float = 0.0
    key_nats_sum: float = 0.0
    key_tokens_sum: float = 0.0
    gradient_norm: float = 0.0
    """Before clipping, of the last step that was made."""
    recorded: int = 0
    """Step of the last record of training."""
    records: int = 0
    """Lines of metrics.jsonl that belong to the steps so far."""
    samples_size: int = 0
    """Bytes of samples.txt that belong to them."""
    elapsed_seconds: float = 0.0
    computation: dict[str, str] = field(default_factory=dict)
    """How the newest session computed, where the settings left that to it: going on on a device of
    the same kind computes alike."""

    def note_evaluation(self, loss: float) -> bool:
        """Count an evaluation; whether it is the best so far."""
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_loss = loss
        self.eval_loss = loss
        self.evaluations_since_best = 0 if is_best else self.evaluations_since_best + 1
        return is_best

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainState":
        """The inverse of `as_json`.

        Raises:
            ValueError: There is more or less in it.
        """
        # Of a run by a gptlab that left nothing open.
        values = {"computation": {}, **values}
        if values.keys() != {item.name for item in fields(cls)}:
            raise ValueError("these are not the fields of a state")
        if not isinstance(values["computation"], dict):
            raise ValueError("how it was computed is no table")
        return cls(**values)


def training_tensors(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: WeightAverage | None,
) -> dict[str, Tensor]:
    """What a resume needs beside the weights that the model file holds, by name; not copied.

    `optimizer/PARAMETER:KEY` is state of an optimizer. With an average the model file holds that,
    and `weights/PARAMETER` are the weights themselves. Sharded tensors come as they are.

    Raises:
        TypeError: An optimizer keeps state that is no tensor.
    """
    tensors: dict[str, Tensor] = {}
    if average is not None:
        for name, parameter in learning(model).items():
            tensors[_WEIGHTS + name] = parameter.detach()
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for owner, values in optimizer.state.items():
            for key, value in values.items():
                if value is None:
                    continue
                if not isinstance(value, Tensor):
                    raise TypeError(f"the optimizer's state '{key}' must be a tensor to be saved")
                tensors[f"{_OPTIMIZER}{name_of[id(owner)]}:{key}"] = value
    return tensors


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def restore_tensors(
    weights: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: WeightAverage | None,
) -> None:
    """Put back in place what the model file and `training_tensors` hold.

    Whole tensors are cut where the parameter is sharded.

    Args:
        weights: Those of the model file, by name: of the model, or of its average if there is one.
            Frozen ones may be among them.
        tensors: The rest.
        model: Gets its weights; frozen ones stay.
        optimizers: Made for this model.
        average: Of this model.

    Raises:
        CheckpointError: They are of another model.
    """
    parameters = learning(model)
    frozen = dict(model.named_parameters()).keys() - parameters.keys()
    weights = {name: tensor for name, tensor in weights.items() if name not in frozen}
    states: dict[str, dict[str, Tensor]] = {}
    in_model_file = {name: _placed(name, tensor, parameters) for name, tensor in weights.items()}
    own_weights = {} if average is not None else in_model_file
    for label, tensor in tensors.items():
        name, key = parameter_of(label)
        placed = _placed(name, tensor, parameters)
        if key is None:
            own_weights[name] = placed
        else:
            states.setdefault(name, {})[key] = placed
    if lacking := parameters.keys() - own_weights.keys():
        raise CheckpointError(f"it is of another model: it lacks '{min(lacking)}'")
    if average is not None:
        average.load(in_model_file)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(own_weights[name])
    _fill(optimizers, states, parameters)


def parameter_of(label: str) -> tuple[str, str | None]:
    """The parameter that a name of `training_tensors` speaks of, and the key of its state.

    The key is None for a weight itself.
    """
    if label.startswith(_WEIGHTS):
        return label.removeprefix(_WEIGHTS), None
    name, _, key = label.removeprefix(_OPTIMIZER).rpartition(":")
    return name, key


def _fill(
    optimizers: Sequence[torch.optim.Optimizer],
    states: Mapping[str, Mapping[str, Tensor]],
    parameters: Mapping[str, Tensor],
) -> None:
    name_of = {id(parameter): name for name, parameter in parameters.items()}
    for optimizer in optimizers:
        names = [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]
        state = {index: dict(states[name]) for index, name in enumerate(names) if name in states}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _placed(name: str, tensor: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """What belongs to the parameter `name`, a DTensor where that is one and the shape is its own.

    Raises:
        CheckpointError: There is no such parameter, or it has another shape.
    """
    if name not in parameters:
        raise CheckpointError(f"it is of another model: it has '{name}'")
    parameter = parameters[name]
    if tensor.ndim and tensor.shape != parameter.shape:
        raise CheckpointError(
            f"it is of another model: '{name}' is {tuple(tensor.shape)}, not "
            f"{tuple(parameter.shape)}"
        )
    if not is_sharded(parameter) or is_sharded(tensor) or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    # Every process has read the whole: nothing need be sent.
    return distribute_tensor(
        tensor.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        src_data_rank=None,
    )
