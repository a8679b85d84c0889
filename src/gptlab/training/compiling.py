"""torch.compile where it pays, and without it where it fails."""

from collections.abc import Callable

import torch
from torch import nn

from gptlab.errors import BackendError
from gptlab.training.objective import Forward


def choose_forward(
    module: nn.Module,
    mode: str,
    *,
    device: torch.device,
    try_out: Callable[[Forward], object],
    say: Callable[[str], None],
) -> Forward:
    """The forward pass of `module`, compiled if `mode` says so.

    Args:
        module: The objective, on its device, perhaps spread over several.
        mode: `on`, `off`, or `auto`: on a GPU, falling back where it fails.
        device: Where it computes.
        try_out: Runs a step with what it is given; whatever that raises counts as failing.
        say: Told in a line of a fallback.

    Raises:
        BackendError: `mode` is `on` and compiling fails.
    """
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return module
    try:
        compiled: Forward = torch.compile(module)
        try_out(compiled)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if mode == "on":
            raise BackendError(f"--compile on fails: {reason}; write --compile off") from error
        say(f"torch.compile fails here, so the run goes on without it: {reason}")
        return module
    return compiled
