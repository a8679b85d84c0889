"""torch.compile where it pays, and without it where it fails."""

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from gptlab.errors import BackendError
from gptlab.training.objective import Forward
from gptlab.training.ranks import Ranks


def choose_forward(
    module: nn.Module,
    mode: str,
    *,
    device: torch.device,
    try_out: Callable[[Forward], object],
    say: Callable[[str], None],
    ranks: Ranks,
) -> Forward:
    """The forward pass of `module`, compiled if `mode` says so.

    Args:
        module: The objective, on its device, perhaps spread over several.
        mode: `on`, `off`, or `auto`: on a GPU, falling back in all processes if it fails in one.
        device: Where it computes.
        try_out: Runs a step with what it is given; whatever that raises counts as failing. No
            gradients may travel in it, as one process may fail where others do not.
        say: Told in a line of a fallback.
        ranks: The processes of the job.

    Raises:
        BackendError: Compiling fails, and `mode` is `on` or the module is sharded: those who come
            together in each pass can't go different ways.
    """
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return module
    reason = ""
    compiled: Forward = module
    try:
        compiled = torch.compile(module)
        try_out(compiled)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if mode == "on" or isinstance(module, FSDPModule):
            raise BackendError(f"torch.compile fails: {reason}; write --compile off") from error
    if mode == "auto" and ranks.any(bool(reason)):
        reason = reason or "it does in another process"
        say(f"torch.compile fails here, so the run goes on without it: {reason}")
        return module
    return compiled
