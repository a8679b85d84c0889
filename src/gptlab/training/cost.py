"""What training takes: a step, found by making one that leaves no trace, and what lasts."""

import time
from contextlib import suppress
from dataclasses import dataclass

from gptlab.training.memory import peak_memory, restart_peak
from gptlab.training.micro_batches import split
from gptlab.training.objective import Forward
from gptlab.training.parallelism import synchronised
from gptlab.training.peak import peak_flops
from gptlab.training.session import Session
from gptlab.training.state import learning

# Share of a part's windows that are tried out, one of so many.
_TRIED = 8
_QUICK_SECONDS = 0.5


@dataclass(frozen=True)
class Cost:
    """What a training step takes."""

    seconds: float
    peak_bytes: int
    """Most memory in use while it computes: on a CPU, of the whole process."""


def probe(
    session: Session, forward: Forward, *, rows: int | None = None, travels: bool = True
) -> Cost:
    """The cost of a training step, from two that leave no trace.

    Args:
        session: The run.
        forward: Its objective, as it is computed.
        rows: How many of the batch's windows to compute at once; those of a part if not given.
        travels: Whether gradients go from process to process, as in the last part of a step.
    """
    batch = session.batch(0)
    if rows is None:
        part, share = split(batch, session.parts)[0], session.parts
    else:
        part, share = batch.each(lambda tensor: tensor[:rows]), 1
    seconds = 0.0
    try:
        for _ in range(2):
            start = time.perf_counter()
            with synchronised(session.module, last=travels):
                sums = forward(part)
                (sums.objective / sums.weight).backward()  # type: ignore[no-untyped-call]
            sums.objective.item()
            session.model.zero_grad(set_to_none=True)
            seconds = time.perf_counter() - start
    finally:
        session.model.zero_grad(set_to_none=True)
    return Cost(seconds * share, peak_memory(session.arithmetic.device))


def quick_probe(session: Session) -> Cost:
    """What `probe` finds of the plain forward pass; where that would take long, an estimate of it.

    The estimate is from a few of a part's windows.
    """
    module, device = session.module, session.arithmetic.device
    if device.type != "cpu" or session.ranks.size > 1:
        # Fast, or many that must do alike.
        return probe(session, module)
    rows = -(-len(session.batch(0).inputs) // session.parts)
    few = -(-rows // _TRIED)
    before = peak_memory(device)
    with suppress(OSError):
        before = restart_peak(device)
    cost = probe(session, module, rows=few)
    seconds = cost.seconds * rows * session.parts / few
    if seconds < _QUICK_SECONDS:
        return probe(session, module)
    gradients = 4 * learning_size(session)
    activations = max(0, cost.peak_bytes - before - gradients)
    return Cost(seconds, cost.peak_bytes + activations * (rows - few) // few)


def learning_size(session: Session) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in learning(session.model).values())


def later_memory(session: Session) -> int:
    """Bytes that a run takes after its first step, beside what a step does: the optimizers' state.

    Gradients are among them where a step has several parts, and an average of the weights.
    """
    config = session.config
    copies = 2 + (config.ema_decay is not None)
    is_in_parts = config.micro_batch_size or config.gradient_accumulation_steps
    copies += is_in_parts is not None
    size = 4 * copies * learning_size(session)
    return size // session.ranks.size if config.parallel == "fsdp" else size


def comparable_peak(session: Session) -> float | None:
    """Operations a second that the devices could do, where `flops_per_token` says what a run does.

    None where it does not, or the device is not known: with a head, of pairs, of hidden tokens, of
    which alone there are logits, or where only a part of the model learns, for gradients that
    nobody computes are no use of the processor.
    """
    is_partial = learning_size(session) < session.model.num_parameters()
    if is_partial or session.inputs.examples is not None or session.config.learns_masks:
        return None
    return peak_flops(session.arithmetic, devices=session.ranks.size)
