"""One step of training: forward and backward over the batch's parts, then an update.

    loss = sum of the objective over all parts and ranks / sum of their weights

The weight of the whole step is known before its first forward pass, so each part's gradient is
final when it is computed, whatever the number of parts and ranks.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from gptlab import checkpoint
from gptlab.config import OptimizerConfig, TrainConfig
from gptlab.config.heads import OWN
from gptlab.errors import TrainingError
from gptlab.training.bad_steps import BadStep, dump, nonfinite_gradients, too_many
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import LossSums
from gptlab.training.micro_batches import split
from gptlab.training.objective import Forward
from gptlab.training.optimizers import set_learning_rate
from gptlab.training.parallelism import gradient_norm, synchronised
from gptlab.training.schedules import learning_rate
from gptlab.training.session import Session


@dataclass(frozen=True)
class StepReport:
    """What a step came to, over all parts and ranks."""

    sums: LossSums
    """float64, on the CPU."""
    gradient_norm: float
    """Before clipping."""
    is_finite: bool
    """Whether the step was made; else it was left out, and the weights are as they were."""
    failure: TrainingError | None = None
    """Why the run can't go on, after too many steps that were left out."""


def train_step(session: Session, forward: Forward) -> StepReport:
    """Learn from the next batch, or leave it out where its numbers are not finite."""
    config, state, scale = session.config, session.state, session.scale
    set_learning_rate(session.optimizers, rate_of(session, state.step))
    batch = session.batch(state.step)
    seed = _drawing_seed(session) if _may_draw(config) else None
    if seed is not None:
        torch.manual_seed(seed)
    # Engines for several devices take the mean over ranks, and this is a sum.
    factor = scale.scale * session.ranks.size / session.ranks.sum(session.objective.weight(batch))
    sums = _backward(session, forward, batch, factor)
    parameters = [p for p in session.model.parameters() if p.grad is not None]
    norm = gradient_norm(parameters).item() / scale.scale
    is_finite = math.isfinite(norm) and math.isfinite(sums.objective)
    failure = None
    if is_finite:
        limit = config.grad_clip or math.inf
        _multiply(parameters, min(1.0, limit / max(norm, 1e-12)) / scale.scale)
        for optimizer in session.optimizers:
            optimizer.step()
        if session.average is not None:
            session.average.update(state.step + 1)
        state.bad_steps = 0
    else:
        failure = _leave_out(session, batch, sums, norm=norm, factor=factor.item(), seed=seed)
    scale.update(finite=is_finite)
    session.model.zero_grad(set_to_none=True)
    state.step += 1
    return StepReport(sums, norm, is_finite, failure)


def _backward(
    session: Session, forward: Forward, batch: DeviceBatch, factor: torch.Tensor
) -> LossSums:
    """Add the gradient of `factor` times the objective; what the batch adds up to, over ranks."""
    number = session.parts
    if number > 1:
        # As many in all processes: a model that is spread over them comes together in each part.
        number = session.ranks.min(min(number, len(batch.inputs)))
    parts = split(batch, number)
    collected = []
    for number, part in enumerate(parts, start=1):
        with synchronised(session.module, last=number == len(parts)):
            sums = forward(part)
            (sums.objective * factor).backward()  # type: ignore[no-untyped-call]
        collected.append(torch.stack([value.detach() for value in sums]))
    return LossSums(*session.ranks.sum(torch.stack(collected).cpu().double().sum(0)).unbind())


def _leave_out(
    session: Session,
    batch: DeviceBatch,
    sums: LossSums,
    *,
    norm: float,
    factor: float,
    seed: int | None,
) -> TrainingError | None:
    """Count and keep a step whose numbers are not finite; the error if there were too many."""
    config, state, ranks = session.config, session.state, session.ranks
    state.skipped_steps += 1
    if session.scale.can_fall and math.isfinite(sums.objective):
        # fp16 is looking for its scale: nothing is wrong with the batch.
        return None
    state.bad_steps += 1
    bad = BadStep(
        step=state.step + 1,
        loss=(sums.objective / sums.weight).item(),
        gradient_norm=norm,
        parameters=nonfinite_gradients(session.model),
        learning_rate=rate_of(session, state.step),
        precision=config.precision,
        seed=seed,
        parts=session.parts,
        factor=factor,
        attention=session.model.attention,
    )
    path = dump(
        session.folder,
        bad,
        batch,
        tokenizer=session.inputs.tokenizer,
        rank=ranks.rank if ranks.size > 1 else None,
    )
    what = f"loss is {bad.loss:.4g}" if not math.isfinite(bad.loss) else f"gradient norm is {norm}"
    session.say(f"step {bad.step:,} is left out: its {what} ({path})")
    if state.bad_steps < config.max_bad_steps:
        return None
    if ranks.size == 1 or (ranks.is_first and config.parallel == "ddp"):
        checkpoint.save(
            path.with_suffix(""), session.model, session.inputs.tokenizer, step=bad.step
        )
    return too_many(bad, count=state.bad_steps, path=path, config=config.part(OptimizerConfig))


def rate_of(session: Session, step: int) -> float:
    """Learning rate of step `step`, counted from 0."""
    return learning_rate(
        step,
        total_steps=session.total_steps,
        config=session.config.part(OptimizerConfig),
    )


def _multiply(parameters: list[torch.nn.Parameter], factor: float) -> None:
    if factor != 1.0:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)


def _may_draw(config: TrainConfig) -> bool:
    """Whether the model may draw numbers; what a head of one's own does, nobody knows."""
    return bool(config.dropout or config.lora_dropout or config.head == OWN)


def _drawing_seed(session: Session) -> int:
    # Seeding each step makes its draws a function of the step: nothing to save, nothing to disturb.
    sequence = np.random.SeedSequence((session.config.seed, session.state.step, session.ranks.rank))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
