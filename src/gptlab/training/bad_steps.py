"""Steps that are left out because their numbers are not finite: kept for a look, and repeated.

runs/NAME/bad_steps/
  step-123.json         what was computed, and the text of each window
  step-123.safetensors  the batch, as the model read it
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gptlab.checkpoint import load_tensors, save_tensors
from gptlab.config import OptimizerConfig
from gptlab.config.learning import usual_rate
from gptlab.errors import CheckpointError, TrainingError
from gptlab.tokenizer import Tokenizer
from gptlab.training.dtensors import local
from gptlab.training.files import replace_text
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import LossSums
from gptlab.training.micro_batches import split
from gptlab.training.objective import Forward

FOLDER = "bad_steps"


@dataclass(frozen=True)
class BadStep:
    """What a step came to, and what it takes to repeat it."""

    step: int
    """Its number, as metrics.jsonl counts."""
    loss: float
    """What it was to minimise."""
    gradient_norm: float
    parameters: tuple[str, ...]
    """Names of those whose gradient is not finite."""
    learning_rate: float
    precision: str
    seed: int | None
    """Of torch's generator before the first micro-batch; None where nothing was drawn."""
    parts: int
    """Micro-batches, one after another."""
    factor: float
    """What each one's objective was multiplied by before its backward pass."""
    attention: str = "auto"
    """The backend that computed it."""


def nonfinite_gradients(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters whose gradient is not finite; of sharded ones, in the own shard."""
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not bool(local([parameter.grad])[0].isfinite().all())
    )


def dump(
    folder: Path, bad: BadStep, batch: DeviceBatch, *, tokenizer: Tokenizer, rank: int | None = None
) -> Path:
    """Write a bad step into the run's `folder`; the path of its batch, which `replay` takes.

    Args:
        folder: Of the run.
        bad: What the step came to.
        batch: What it read; of several processes, each dumps its own rows.
        tokenizer: Turns the windows into text.
        rank: Of this process, for the file's name; None where it is the only one.

    Raises:
        CheckpointError: It can't be written.
    """
    name = f"step-{bad.step}" if rank is None else f"step-{bad.step}-rank{rank}"
    path = folder / FOLDER / f"{name}.safetensors"
    tensors = {key: part for key, part in batch._asdict().items() if part is not None}
    facts = {
        **asdict(bad),
        # JSON knows no NaN.
        "loss": str(bad.loss),
        "gradient_norm": str(bad.gradient_norm),
        "texts": [tokenizer.decode(row) for row in batch.inputs.flatten(0, -2).tolist()],
    }
    try:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}")
        save_tensors(partial, tensors)
        partial.replace(path)
        replace_text(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise CheckpointError(f"{path} can't be written: {error.strerror}") from None
    return path


def load(path: Path) -> tuple[BadStep, DeviceBatch]:
    """What `dump` wrote to `path`, on the CPU.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    facts_file = path.with_suffix(".json")
    try:
        facts: dict[str, Any] = json.loads(facts_file.read_text(encoding="utf-8"))
        del facts["texts"]
        numbers = {name: float(facts[name]) for name in ("loss", "gradient_norm")}
        bad = BadStep(**{**facts, **numbers, "parameters": tuple(facts["parameters"])})
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{facts_file} is missing or damaged") from None
    return bad, DeviceBatch(**load_tensors(path))


def replay(path: Path, forward: Forward, *, device: torch.device) -> LossSums:
    """Compute the step in `path` again, forward and backward; its sums.

    The gradients stay in the parameters, as large as the step's own were before any clipping. They
    are the same numbers if the weights are those of that step.

    Args:
        path: What `dump` returned.
        forward: The objective of the same model.
        device: Where its weights are.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    bad, batch = load(path)
    if bad.seed is not None:
        torch.manual_seed(bad.seed)
    parts: list[LossSums] = []
    for part in split(batch.each(lambda tensor: tensor.to(device)), bad.parts):
        sums = forward(part)
        (sums.objective * bad.factor).backward()  # type: ignore[no-untyped-call]
        parts.append(LossSums(*(value.detach() for value in sums)))
    return LossSums(*(torch.stack(values).sum() for values in zip(*parts, strict=True)))


def too_many(bad: BadStep, *, count: int, path: Path, config: OptimizerConfig) -> TrainingError:
    """The error that ends a run after `count` bad steps in a row, the last of them in `path`."""
    remedies = [
        *_other_precisions(bad.precision),
        f"--learning_rate {min(config.learning_rate / 3, usual_rate(config.optimizer)):.1g}",
    ]
    if not config.grad_clip:
        remedies.append("--grad_clip 1")
    return TrainingError(
        f"{count} step(s) in a row were left out, the last of them step {bad.step}, with a loss of "
        f"{bad.loss:.4g} and a gradient norm of {bad.gradient_norm:.4g}; start again with "
        f"{_listed(remedies)}; its batch is in {path}"
    )


def _other_precisions(precision: str) -> list[str]:
    """Those with a larger range, or more digits."""
    if precision == "fp16":
        return ["--precision bf16", "--precision fp32"]
    return ["--precision fp32"] if precision == "bf16" else []


def _listed(items: Sequence[str]) -> str:
    return " or ".join(items) if len(items) < 3 else f"{', '.join(items[:-1])} or {items[-1]}"
