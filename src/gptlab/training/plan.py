"""What a run will do, and what it will cost, before it does it."""

import math
from collections.abc import Sequence

from gptlab.config import TrainConfig
from gptlab.data.pair_sampler import PairSampler
from gptlab.data.text_size import MeasuredDataset
from gptlab.training.cost import Cost, comparable_peak, later_memory, learning_size
from gptlab.training.session import Session

# A forward pass is about a third of a training step's work.
_FORWARD_SHARE = 1 / 3
# From this share of a run's time on, evaluations are worth a word.
_MUCH = 0.1
_FEW_LABELS = 5


def describe(session: Session, cost: Cost) -> str:
    """The plan as a few lines for the user; `cost` is that of a step."""
    config, model = session.config, session.model
    if session.inputs.labelled is not None:
        return describe_labelled(session, cost)
    if session.inputs.pairs is not None:
        return describe_pairs(session, cost)
    parameters, tokens = model.num_parameters(), _different_tokens(session)
    steps = max(0, session.total_steps - session.state.step)
    more = f" more, to {session.total_steps:,}," if session.state.step else ""
    read = session.total_steps * session.tokens_per_step
    lines = [
        _model(session),
        f"data     {_data(session)}",
        f"steps    {steps:,}{more} of {config.batch_size} x {_length(session)} tokens = "
        f"{session.sampler.epoch(session.total_steps):.3g} epochs{_early_ending(config)}",
        *_masks(config),
        f"ratio    {read / parameters:.3g} tokens read per parameter, "
        f"{tokens / parameters:.3g} of them different",
        *_means(session, cost),
        *_note_of_warmup(session),
    ]
    if tokens < parameters and config.init_from is None:
        lines.append(
            "note     the model has more parameters than the text has tokens: it can learn the "
            "text by heart, so watch the evaluation loss"
        )
    lines += _note_of_evaluations(session, steps)
    return "\n".join(lines)


def _masks(config: TrainConfig) -> list[str]:
    if not config.learns_masks:
        return []
    return [f"masks    {config.mask_share:.3g} of the tokens of a window, drawn anew in each step"]


def describe_labelled(session: Session, cost: Cost) -> str:
    """The plan of a run with a head."""
    config, labelled = session.config, session.inputs.labelled
    assert labelled is not None
    steps = max(0, session.total_steps - session.state.step)
    more = f" more, to {session.total_steps:,}," if session.state.step else ""
    train, held_out = labelled.train, labelled.evaluation
    head = labelled.head
    labels = f", {len(head.labels)} labels: {_listed(head.labels)}" if head.labels else ""
    lines = [
        _model(session),
        f"head     {head.head}{labels}",
        f"data     {len(train):,} training rows of {train.tokens_per_row:.3g} tokens, "
        f"{len(held_out):,} evaluation rows",
        f"steps    {steps:,}{more} of {config.batch_size} rows = "
        f"{session.sampler.epoch(session.total_steps):.3g} epochs{_early_ending(config)}",
        *_means(session, cost),
        *_note_of_warmup(session),
        *_note_of_evaluations(session, steps),
    ]
    return "\n".join(lines)


def describe_pairs(session: Session, cost: Cost) -> str:
    """The plan of a Transformer's run."""
    config, pairs, sampler = session.config, session.inputs.pairs, session.sampler
    assert pairs is not None
    assert isinstance(sampler, PairSampler)
    steps = max(0, session.total_steps - session.state.step)
    more = f" more, to {session.total_steps:,}," if session.state.step else ""
    train, held_out = pairs.train, pairs.evaluation
    lines = [
        _model(session),
        f"data     {len(train):,} training pairs of {train.tokens_per_row:.3g} tokens, "
        f"{len(held_out):,} evaluation pairs",
        f"steps    {steps:,}{more} of about {session.tokens_per_step:,} tokens and "
        f"{sampler.padding_share:.1%} filling = "
        f"{session.sampler.epoch(session.total_steps):.3g} epochs{_early_ending(config)}",
        *_means(session, cost),
        *_note_of_warmup(session),
        *_note_of_evaluations(session, steps),
    ]
    return "\n".join(lines)


def _model(session: Session) -> str:
    config, parameters = session.config, session.model.num_parameters()
    layers = f"{config.num_layers}"
    if config.architecture == "transformer":
        layers = f"{config.encoder_layers or config.num_layers} + {layers}"
    kind = f"{layers} layers, width {config.embed_dim}, {config.n_heads} heads"
    learn = learning_size(session)
    part = "" if learn == parameters else f", of which {learn:,} learn"
    known = f"vocabulary {config.vocab_size:,}"
    if config.src_vocab_size is not None:
        known = f"vocabularies {config.src_vocab_size:,} and {config.vocab_size:,}"
    return f"model    {parameters:,} parameters{part}: {kind}, {known}"


def _means(session: Session, cost: Cost) -> list[str]:
    """What the run takes, and where it writes."""
    memory = cost.peak_bytes + later_memory(session)
    return [
        f"device   {_devices(session)}",
        f"memory   about {memory / 2**30:.1f} GiB",
        f"time     about {_duration(run_seconds(session, cost))} at {_speed(session, cost)}",
        f"output   {session.folder}",
    ]


def _note_of_warmup(session: Session) -> list[str]:
    warmup = session.config.warmup_steps or 0
    if warmup < session.total_steps:
        return []
    return [
        f"note     a warm-up of {warmup:,} steps is the whole run; the learning rate does not "
        "get to its peak, nor down again"
    ]


def _note_of_evaluations(session: Session, steps: int) -> list[str]:
    share = _evaluation_share(session, steps)
    # The last one can't be left out.
    if _evaluations(session, steps) <= 1 or share / (steps + share) <= _MUCH:
        return []
    return [
        f"note     evaluations take {share / (steps + share):.0%} of the time; a larger "
        "--eval_steps or a smaller evaluation text takes less"
    ]


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:_FEW_LABELS]) + (", ..." if len(labels) > _FEW_LABELS else "")


def _devices(session: Session) -> str:
    config, ranks = session.config, session.ranks
    lines = [str(session.arithmetic)]
    if ranks.size > 1:
        lines.append(f"{ranks.size} processes ({config.parallel})")
    if session.parts > 1:
        lines.append(f"each batch in {session.parts} parts")
    return ", ".join(lines)


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
    examples = session.inputs.examples
    if examples is not None:
        return examples.evaluation.num_tokens / session.tokens_per_step
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


def _evaluation_share(session: Session, steps: int) -> float:
    """Time of the evaluations in `steps` steps, in steps."""
    return _evaluations(session, steps) * _evaluation_batches(session) * _FORWARD_SHARE


def _evaluations(session: Session, steps: int) -> int:
    """How many there are in `steps` steps."""
    config = session.config
    if config.eval_strategy == "steps":
        return max(1, -(-steps // config.eval_steps))
    if config.eval_strategy == "epoch":
        return max(1, math.ceil(session.sampler.epoch(steps)))
    return 1


def run_seconds(session: Session, cost: Cost) -> float:
    """How long the rest of the run takes, where a step takes `cost`."""
    steps = max(0, session.total_steps - session.state.step)
    seconds = cost.seconds * (steps + _evaluation_share(session, steps))
    if session.config.max_minutes is None:
        return seconds
    return max(0.0, min(seconds, 60 * session.config.max_minutes - session.state.elapsed_seconds))


def _speed(session: Session, cost: Cost) -> str:
    speed = session.tokens_per_step / cost.seconds
    peak = comparable_peak(session)
    if peak is None:
        return f"{speed:,.0f} tokens/s"
    share = speed * session.model.flops_per_token() / peak
    return f"{speed:,.0f} tokens/s, {share:.0%} of what matrix products alone would allow"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
