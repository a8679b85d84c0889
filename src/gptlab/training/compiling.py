"""torch.compile where it pays, and without it where it fails."""

from collections.abc import Callable

import torch

from gptlab.errors import BackendError
from gptlab.model import GPT
from gptlab.training.losses import Forward


def choose_forward(
    model: GPT, mode: str, *, try_out: Callable[[Forward], object], say: Callable[[str], None]
) -> Forward:
    """The model's forward pass, compiled if `mode` says so.

    Args:
        model: On its device.
        mode: `on`, `off`, or `auto`: on a GPU, falling back where it fails.
        try_out: Runs a step with what it is given; whatever that raises counts as failing.
        say: Told in a line of a fallback.

    Raises:
        BackendError: `mode` is `on` and compiling fails.
    """
    if mode == "off" or (mode == "auto" and model.embedding.weight.device.type != "cuda"):
        return model
    try:
        compiled: Forward = torch.compile(model)
        try_out(compiled)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if mode == "on":
            raise BackendError(f"--compile on fails: {reason}; write --compile off") from error
        say(f"torch.compile fails here, so the run goes on without it: {reason}")
        return model
    return compiled
