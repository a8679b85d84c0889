"""What a run will do, and what it will cost, before it does it."""

import sys
import time

import torch

from gptlab.config import TrainConfig
from gptlab.data.text_size import MeasuredDataset
from gptlab.training.losses import Forward, batch_loss
from gptlab.training.session import Session

# A forward pass is about a third of a training step's work.
_EVALUATION_SHARE = 1 / 3


def probe(session: Session, forward: Forward) -> float:
    """Seconds of a training step, from two that leave no trace."""
    batch = session.batch(0)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        loss, weight = batch_loss(forward, batch, arithmetic=session.arithmetic)
        (loss / weight).backward()  # type: ignore[no-untyped-call]
        loss.item()
        session.model.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
    return seconds


def describe(session: Session, step_seconds: float) -> str:
    """The plan as a few lines for the user."""
    config, model = session.config, session.model
    parameters, tokens = model.num_parameters(), _different_tokens(session)
    steps = max(0, session.total_steps - session.state.step)
    more = f" more, to {session.total_steps:,}," if session.state.step else ""
    read = session.total_steps * session.tokens_per_step
    kind = f"{config.num_layers} layers, width {config.embed_dim}, {config.n_heads} heads"
    lines = [
        f"model    {parameters:,} parameters: {kind}, vocabulary {config.vocab_size:,}",
        f"data     {_data(session)}",
        f"steps    {steps:,}{more} of {config.batch_size} x {_length(session)} tokens = "
        f"{session.sampler.epoch(session.total_steps):.3g} epochs{_early_ending(config)}",
        f"ratio    {read / parameters:.3g} tokens read per parameter, "
        f"{tokens / parameters:.3g} of them different",
        f"device   {session.arithmetic}",
        f"memory   about {_memory(session) / 2**30:.1f} GiB",
        f"time     about {_duration(_total_seconds(session, step_seconds, steps))}"
        f" at {session.tokens_per_step / step_seconds:,.0f} tokens/s",
        f"output   {session.folder}",
    ]
    if tokens < parameters:
        lines.append(
            "note     the model has more parameters than the text has tokens: it can learn the "
            "text by heart, so watch the evaluation loss"
        )
    return "\n".join(lines)


def _data(session: Session) -> str:
    inputs, samplers = session.inputs, [sampler for sampler, _ in session.mixture]
    tokens = sum(len(data.dataset) for data in inputs.train)
    what = f"{tokens:,} training tokens, {_evaluation_tokens(session):,} evaluation tokens"
    if any(sampler.dataset.windows.length is not None for sampler in samplers):
        windows = sum(sampler.num_windows for sampler in samplers)
        what = f"{windows:,} windows of {_length(session)} in {what}"
    if len(samplers) == 1:
        return what
    total = sum(weight for _, weight in session.mixture)
    shares = [
        f"{data.name} {float(100 * weight / total):.3g}%"
        for data, (_, weight) in zip(inputs.train, session.mixture, strict=True)
    ]
    return f"{', '.join(shares)}: {what}"


def _length(session: Session) -> int:
    return session.mixture[0][0].length


def _evaluation_tokens(session: Session) -> int:
    """Tokens that an evaluation predicts, each as often as it does."""
    return sum(
        data.num_targets if isinstance(data, MeasuredDataset) else len(data)
        for data in session.inputs.evaluation
    )


def _evaluation_batches(session: Session) -> float:
    """Work of an evaluation, in batches as large as those of training."""
    read = sum(
        data.tokens_read if isinstance(data, MeasuredDataset) else len(data)
        for data in session.inputs.evaluation
    )
    return read / session.tokens_per_step


def _different_tokens(session: Session) -> int:
    """Tokens in the training windows, each counted once; those that no window has do not count."""
    return sum(
        len(sampler.dataset)
        if sampler.dataset.windows.length is None
        else min(len(sampler.dataset), sampler.num_windows * sampler.length)
        for sampler, _ in session.mixture
    )


def _early_ending(config: TrainConfig) -> str:
    reasons = []
    if config.patience and config.eval_strategy != "no":
        reasons.append(f"{config.patience} evaluations without improvement")
    if config.max_minutes is not None:
        reasons.append(f"{config.max_minutes:g} minutes")
    return f" at most: {' or '.join(reasons)} end it earlier" if reasons else ""


def _total_seconds(session: Session, step_seconds: float, steps: int) -> float:
    config = session.config
    evaluations = 1
    if config.eval_strategy == "steps":
        evaluations += steps // config.eval_steps
    elif config.eval_strategy == "epoch":
        evaluations += round(session.sampler.epoch(steps))
    evaluation = _evaluation_batches(session) * _EVALUATION_SHARE
    seconds = step_seconds * (steps + evaluations * evaluation)
    if config.max_minutes is None:
        return seconds
    return max(0.0, min(seconds, 60 * config.max_minutes - session.state.elapsed_seconds))


def _memory(session: Session) -> float:
    """Bytes at the peak: what the probe took, and the optimizer's two moments."""
    moments = 8 * session.model.num_parameters()
    device = session.arithmetic.device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) + moments
    return _peak_of_process() + moments


def _peak_of_process() -> int:
    try:
        import resource
    except ImportError:  # Windows has no such counter.
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
