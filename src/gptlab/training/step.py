"""One step of training: forward, backward, update."""

import numpy as np
import torch
from torch import Tensor

from gptlab.config import OptimizerConfig
from gptlab.training.losses import Forward, batch_loss
from gptlab.training.schedules import warmup_cosine
from gptlab.training.session import Session


def train_step(session: Session, forward: Forward) -> tuple[Tensor, Tensor]:
    """Learn from the next batch; the loss's sum over its tokens, and their weight."""
    config, model, optimizer = session.config, session.model, session.optimizer
    scaler, state = session.scaler, session.state
    if config.dropout:
        torch.manual_seed(_dropout_seed(config.seed, state.step))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(session, state.step)
    batch = session.batch(state.step)
    loss, weight = batch_loss(forward, batch, arithmetic=session.arithmetic)
    scaler.scale(loss / weight).backward()  # type: ignore[no-untyped-call]
    if config.grad_clip:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return loss.detach(), weight


def learning_rate(session: Session, step: int) -> float:
    """Learning rate of step `step`, counted from 0."""
    return warmup_cosine(
        step,
        total_steps=session.total_steps,
        config=session.config.part(OptimizerConfig),
    )


def _dropout_seed(seed: int, step: int) -> int:
    # Seeding each step makes its masks a function of the step: nothing to save, nothing to disturb.
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
