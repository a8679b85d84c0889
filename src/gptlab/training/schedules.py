"""Learning rates as pure functions of the step."""

import math

from gptlab.config import OptimizerConfig


def learning_rate(step: int, *, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of step `step`, counted from 0: linear warm-up, then the schedule.

    - `cosine`: half a cosine from the peak to the minimum (Loshchilov and Hutter 2017,
      https://arxiv.org/abs/1608.03983, without restarts).
    - `linear`: a straight line from the peak to the minimum.
    - `wsd`: the peak, then a straight line to the minimum over the last `decay_share` of the run
      (Hu et al. 2024, https://arxiv.org/abs/2404.06395).
    - `constant`: the peak, always.
    - `inverse_sqrt`: the peak times the square root of warm-up steps / steps made (Vaswani et al.
      2017, https://arxiv.org/abs/1706.03762), but not below the minimum.

    Those that fall to the minimum stay there behind `total_steps`.
    """
    peak, minimum = config.learning_rate, config.min_learning_rate
    minimum = peak / 10 if minimum is None else minimum
    warmup = config.warmup_steps
    if config.warmup_share is not None:
        warmup = round(total_steps * config.warmup_share)
    warmup = min(100, total_steps // 10) if warmup is None else warmup
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        return max(minimum, peak * math.sqrt(max(1, warmup) / (step + 1)))
    start = warmup
    if config.schedule == "wsd":
        start = max(start, total_steps - max(1, round(total_steps * config.decay_share)))
    progress = min(1.0, max(0.0, step - start) / max(1, total_steps - start))
    height = (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1 - progress
    return minimum + (peak - minimum) * height
