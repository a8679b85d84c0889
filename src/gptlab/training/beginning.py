"""What happens between a session's opening and its first step."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from gptlab.config.training import AUTO
from gptlab.training.compiling import forward_and_cost
from gptlab.training.cost import later_memory, probe
from gptlab.training.examine import drop_later_samples
from gptlab.training.manifest import write_manifest
from gptlab.training.metrics import MetricsLog
from gptlab.training.micro_batches import choose_parts
from gptlab.training.objective import Forward
from gptlab.training.plan import describe
from gptlab.training.run_creation import created_run
from gptlab.training.session import Session
from gptlab.training.sinks import open_sinks
from gptlab.training.tuning import choose_attention


def choose_computation(session: Session) -> tuple[Session, Forward]:
    """How the run computes: its attention, the parts of a batch, compiled or not; then the plan.

    What the settings leave open is as the state says, if it comes from a device of this kind.
    """
    config, ranks, state = session.config, session.ranks, session.state
    kind = session.arithmetic.device.type
    before = state.computation if state.computation.get("device") == kind else {}
    chosen = {"device": kind}
    if config.attention == AUTO:
        chosen["attention"] = before.get("attention") or ranks.share(
            _fastest_attention(session) if ranks.is_first else None
        )
        session.model.use_attention(chosen["attention"])
    most = session.sampler.most_rows
    rows = -(-most // ranks.size)
    parts = choose_parts(
        config,
        rows,
        # Batches of fewer rows have fewer parts.
        fewest=max(1, most // ranks.size),
        try_out=lambda count: probe(session, session.module, rows=count),
        ranks=ranks,
        device=session.arithmetic.device,
        say=session.say,
        reserve=later_memory(session),
    )
    if config.micro_batch_size == AUTO:
        # Going on from a checkpoint computes in the same parts.
        config = config.replace(micro_batch_size=-(-rows // parts))
    session = replace(session, config=config, parts=parts)
    forward, cost = forward_and_cost(session, before=before.get("compile"))
    if config.compile == AUTO:
        chosen["compile"] = "off" if forward is session.module else "on"
    state.computation = chosen
    session.say(describe(session, cost))
    return session, forward


def _fastest_attention(session: Session) -> str:
    config = session.config
    if config.deterministic:
        # By rule, and not by stopwatch.
        return AUTO
    size = config.batch_size
    if session.inputs.pairs is not None:
        # As many rows of full length as there are tokens on each side.
        size = -(-session.tokens_per_step // (2 * config.seq_len))
    rows = -(-size // session.ranks.size)
    if config.micro_batch_size is not None:
        rows = config.micro_batch_size if isinstance(config.micro_batch_size, int) else 1
    elif config.gradient_accumulation_steps is not None:
        rows = -(-rows // config.gradient_accumulation_steps)
    return choose_attention(session.model.config, session.arithmetic, rows=rows)


@contextmanager
def begun(session: Session) -> Iterator[MetricsLog | None]:
    """The run's folder made, or cut back; its metrics, which the first process alone writes."""
    ranks = session.ranks
    with ExitStack() as stack:
        yield ranks.together(lambda: _begin(session, stack) if ranks.is_first else None)


def _begin(session: Session, stack: ExitStack) -> MetricsLog:
    config, folder, step = session.config, session.folder, session.state.step
    stack.enter_context(created_run(session.start, config, step=step))
    drop_later_samples(session)
    write_manifest(
        folder,
        config=config,
        data=session.digests,
        tokenizer=session.inputs.tokenizer.fingerprint(),
        device=str(session.arithmetic),
        world_size=session.ranks.size,
        after_step=step,
    )
    sinks = open_sinks(config, folder, step)
    log = MetricsLog(folder, kept=session.state.records, sinks=sinks)
    stack.callback(log.close)
    return log
