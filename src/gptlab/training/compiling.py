"""torch.compile where it pays, and without it where it does not or fails."""

import time
from collections.abc import Callable

import torch
from torch import nn

from gptlab.errors import BackendError
from gptlab.training.cost import Cost, probe, quick_probe
from gptlab.training.dtensors import is_sharded
from gptlab.training.machine import recalled, remember
from gptlab.training.objective import Forward
from gptlab.training.plan import run_seconds
from gptlab.training.ranks import Ranks
from gptlab.training.session import Session
from gptlab.training.tuning import is_positive

# What compiling brings and costs on a CPU, as long as nobody has tried it there. The code of a
# layer is made for each of them, so that deep models take longer.
_USUAL_SPEEDUP, _SECONDS, _SECONDS_A_LAYER = 1.2, 10.0, 8.0
# How many times its cost it must save: an estimate may be wrong, and a run may end early.
_MARGIN = 2.0


def forward_and_cost(session: Session, *, before: str | None = None) -> tuple[Forward, Cost]:
    """The forward pass that the run's settings ask for or that serves it best, and its cost.

    With `--compile auto`, a GPU compiles. A CPU does where that will save more time than it takes:
    how much either is was measured when this machine last compiled the like, or is assumed. Where
    the plain pass turns out to be no slower, the run keeps to it.

    Args:
        session: The run.
        before: What `auto` came to in the session of the run that this one goes on from.
    """
    mode, kind = session.config.compile, session.arithmetic.device.type
    if mode == "auto" and session.inputs.examples is not None:
        # Batches of texts differ in width, and for each width there would be code of its own.
        return session.module, quick_probe(session)
    if mode == "auto" and kind == "cpu" and before is None:
        return _faster(session)
    if mode == "auto" and (before == "off" or kind not in ("cpu", "cuda")):
        cost = quick_probe(session)
        if kind == "cpu" and _pays(session, cost):
            session.say("it goes on as it began, without torch.compile; --compile on may be faster")
        return session.module, cost
    forward = _compiled(session, mode)
    is_plain = forward is session.module
    return forward, quick_probe(session) if is_plain else probe(session, forward)


def _faster(session: Session) -> tuple[Forward, Cost]:
    """The plain pass or the compiled one, whichever ends the run on a CPU sooner."""
    estimate = quick_probe(session)
    # By rule, and not by stopwatch, where the same bits are asked for.
    if session.config.deterministic or session.ranks.size > 1 or not _pays(session, estimate):
        return session.module, estimate
    plain = probe(session, session.module)
    start = time.perf_counter()
    forward = _compiled(session, "auto")
    if forward is session.module:
        return forward, plain
    cost = probe(session, forward)
    gain = {
        "speedup": plain.seconds / cost.seconds,
        "seconds": time.perf_counter() - start,
    }
    remember(_name(session), gain)
    if gain["speedup"] < 1:
        session.say("torch.compile makes nothing faster here, so the run goes on without it")
        return session.module, plain
    return forward, cost


def _compiled(session: Session, mode: str) -> Forward:
    return choose_forward(
        session.module,
        mode,
        try_out=lambda forward: probe(session, forward, travels=False),
        say=session.say,
        ranks=session.ranks,
        dynamic=session.inputs.pairs is not None,
    )


def choose_forward(
    module: nn.Module,
    mode: str,
    *,
    try_out: Callable[[Forward], object],
    say: Callable[[str], None],
    ranks: Ranks,
    dynamic: bool = False,
) -> Forward:
    """The forward pass of `module`, compiled if `mode` says so.

    Args:
        module: The objective, on its device, perhaps spread over several.
        mode: `on`, `off`, or `auto`: falling back in all processes if it fails in one.
        try_out: Runs a step with what it is given; whatever that raises counts as failing. No
            gradients may travel in it, as one process may fail where others do not.
        say: Told in a line of a fallback.
        ranks: The processes of the job.
        dynamic: Whether batches differ in shape, for all of which the same code is made.

    Raises:
        BackendError: Compiling fails, and `mode` is `on` or the module is sharded: those who come
            together in each pass can't go different ways.
    """
    if mode == "off":
        return module
    reason = ""
    compiled: Forward = module
    try:
        # Former runs of this process would make shapes dynamic, and in the end give up.
        torch.compiler.reset()
        compiled = torch.compile(module, dynamic=dynamic)
        try_out(compiled)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if mode == "on" or any(map(is_sharded, module.parameters())):
            raise BackendError(f"torch.compile fails: {reason}; write --compile off") from error
    if mode == "auto" and ranks.any(bool(reason)):
        reason = reason or "it does in another process"
        say(f"torch.compile fails here, so the run goes on without it: {reason}")
        return module
    return compiled


def _pays(session: Session, plain: Cost) -> bool:
    """Whether compiling saves clearly more of the run than it takes."""
    usual = _SECONDS + _SECONDS_A_LAYER * session.config.num_layers
    gain = {"speedup": _USUAL_SPEEDUP, "seconds": usual}
    known = recalled(_name(session))
    if isinstance(known, dict) and all(is_positive(known.get(name)) for name in gain):
        gain = known
    saved = run_seconds(session, plain) * (1 - 1 / gain["speedup"])
    return saved > _MARGIN * gain["seconds"]


def _name(session: Session) -> str:
    """What decides how long compiling takes and what it brings."""
    config = session.config
    rows = f"{-(-config.batch_size // session.parts)} rows"
    if config.batch_tokens is not None:
        rows = f"{-(-config.batch_tokens // session.parts)} tokens"
    parts = f"{rows}, loss_chunk {config.loss_chunk}"
    if config.activation_checkpointing:
        parts += ", checkpointed"
    model = session.model.config.model_dump_json(exclude_defaults=True)
    return f"compiling {session.arithmetic.precision}, {parts}, {session.model.attention}, {model}"
