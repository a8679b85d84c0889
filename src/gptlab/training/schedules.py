"""Learning rates as pure functions of the step."""

import math

from gptlab.config import OptimizerConfig


def warmup_cosine(step: int, *, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of step `step`, counted from 0: linear warm-up, then half a cosine.

    Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts. It stays at
    the minimum behind `total_steps`.
    """
    peak, minimum = config.learning_rate, config.min_learning_rate
    minimum = peak / 10 if minimum is None else minimum
    warmup = config.warmup_steps
    warmup = min(100, total_steps // 10) if warmup is None else warmup
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * progress)) / 2
