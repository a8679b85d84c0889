"""A look at the model during training: its loss, and a sample of its text."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

from gptlab.config import SamplingConfig
from gptlab.data.masking import Masking
from gptlab.errors import TrainingError
from gptlab.generation import Generator
from gptlab.generation.stream import TextStream
from gptlab.training.ending import is_out_of_time
from gptlab.training.evaluate import Evaluation, evaluate_forward
from gptlab.training.head_evaluation import HeadEvaluation, evaluate_head
from gptlab.training.head_objective import HeadObjective
from gptlab.training.inputs import PairInputs
from gptlab.training.interrupt import BrokenOffError, Interrupt
from gptlab.training.masked_evaluation import MaskedEvaluation, evaluate_masked, guessed
from gptlab.training.masked_objective import MaskedObjective
from gptlab.training.pair_evaluation import PairEvaluation, evaluate_pairs
from gptlab.training.pair_objective import PairObjective
from gptlab.training.parallelism import resharded
from gptlab.training.ranks import Ranks
from gptlab.training.session import Session
from gptlab.training.translations import score_texts, write_targets

SAMPLES = "samples.txt"
_PROMPT_TOKENS = 8
_SAMPLED_PAIRS = 3

AnyEvaluation = Evaluation | HeadEvaluation | MaskedEvaluation | PairEvaluation


def is_evaluation_due(session: Session) -> bool:
    """Whether the step just made calls for an evaluation; the last one always does."""
    config, step = session.config, session.state.step
    if step == session.total_steps or is_out_of_time(session):
        return True
    if config.eval_strategy == "epoch":
        return session.crossed_epochs(1)
    return config.eval_strategy == "steps" and step % config.eval_steps == 0


def drop_later_samples(session: Session) -> None:
    """Cut `samples.txt` back to the step from which the run goes on."""
    path = session.folder / SAMPLES
    if path.is_file():
        os.truncate(path, min(session.state.samples_size, path.stat().st_size))


def examine(session: Session, interrupt: Interrupt) -> tuple[AnyEvaluation, bool]:
    """Evaluate, sample and report; the result, and whether it is the best so far.

    Looks at the averaged weights where the run has an average. Draws from a generator of its own,
    so looking never changes the run.

    Raises:
        BrokenOffError: A signal came; nothing is left of the evaluation.
        TrainingError: The loss is not finite.
    """
    config, state, ranks = session.config, session.state, session.ranks
    text = None
    averaged = nullcontext() if session.average is None else session.average.applied()
    with averaged, resharded(session.module):
        evaluation = _evaluate(session, interrupt)
        if not math.isfinite(evaluation.loss):
            raise TrainingError(
                f"the evaluation loss is {evaluation.loss} at step {state.step}; start again with "
                "a lower --learning_rate, or with --precision fp32"
            )
        # A model that is spread over processes speaks only where all of them take part.
        is_due = config.sample_length and session.inputs.labelled is None
        if is_due and (ranks.is_first or config.parallel == "fsdp"):
            text = _sample(session)
    is_best = state.note_evaluation(evaluation.loss)
    session.say(_report(session, evaluation, is_best))
    if text is not None and ranks.is_first:
        session.say("  " + text.replace("\n", "\n  "))
        with (session.folder / SAMPLES).open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(f"--- step {state.step}\n{text}\n\n")
            state.samples_size = stream.tell()
    return evaluation, is_best


def _evaluate(session: Session, interrupt: Interrupt) -> AnyEvaluation:
    config, ranks, labelled = session.config, session.ranks, session.inputs.labelled
    batch_size = -(-config.batch_size // (ranks.size * session.parts))
    before_batch = partial(_break_off_if_asked, interrupt, ranks)
    if session.inputs.pairs is not None:
        assert isinstance(session.objective, PairObjective)
        evaluation = evaluate_pairs(
            session.objective,
            session.inputs.pairs.evaluation,
            batch_tokens=session.tokens_per_step // (ranks.size * session.parts),
            ranks=ranks,
            before_batch=before_batch,
        )
        return _with_scores(session, evaluation, before_batch)
    if labelled is not None:
        assert isinstance(session.objective, HeadObjective)
        return evaluate_head(
            session.objective,
            labelled.evaluation,
            batch_size=batch_size,
            device=session.arithmetic.device,
            ranks=ranks,
            before_batch=before_batch,
        )
    if isinstance(session.objective, MaskedObjective):
        return evaluate_masked(
            session.objective,
            session.inputs.evaluation,
            Masking.of(session.inputs.tokenizer, config.mask_share),
            batch_size=batch_size,
            ranks=ranks,
            before_batch=before_batch,
        )
    return evaluate_forward(
        session.module,
        session.model,
        session.inputs.evaluation,
        batch_size=batch_size,
        device=session.arithmetic.device,
        document_mask=config.document_mask,
        reset_positions=config.reset_positions,
        ranks=ranks,
        before_batch=before_batch,
    )


def _with_scores(
    session: Session, evaluation: PairEvaluation, before_batch: Callable[[], None]
) -> PairEvaluation:
    """`evaluation` with BLEU and chrF of what the model writes, where the run asks for them."""
    pairs, count = session.inputs.pairs, session.config.eval_translations
    if pairs is None or not count:
        return evaluation
    chosen = [pairs.evaluation.texts(number) for number in range(min(count, len(pairs.evaluation)))]
    sources, expected = zip(*chosen, strict=True)
    with _generator(session) as generator:
        written = write_targets(
            generator, sources, length=session.config.seq_len, before_batch=before_batch
        )
    scores = score_texts(written, expected)
    return replace(evaluation, bleu=scores.bleu, chrf=scores.chrf, bleu_signature=scores.signature)


@contextmanager
def _generator(session: Session) -> Iterator[Generator]:
    """What writes with the run's model, which is in the mode that it was in afterwards."""
    was_training = session.model.training
    try:
        with session.arithmetic.autocast():
            yield Generator(session.model, session.inputs.tokenizer, compile="off")
    finally:
        session.model.train(was_training)


def _break_off_if_asked(interrupt: Interrupt, ranks: Ranks) -> None:
    if ranks.any(interrupt.requested):
        raise BrokenOffError


def _report(session: Session, evaluation: AnyEvaluation, is_best: bool) -> str:
    line = f"step {session.state.step:,}: {evaluation}"
    floor = session.inputs.floor
    if floor is not None and isinstance(evaluation, Evaluation):
        above = evaluation.nats_per_character - floor
        line += f", {above:.4f} nats per character above the floor of {floor:.4f}"
    return f"{line}, the best so far" if is_best else line


def _sample_pairs(session: Session, pairs: PairInputs) -> str:
    """Some held-out sources, and what the model makes of them; what was expected if it differs."""
    count = min(_SAMPLED_PAIRS, len(pairs.evaluation))
    chosen = [pairs.evaluation.texts(number) for number in range(count)]
    with _generator(session) as generator:
        written = write_targets(
            generator, [source for source, _ in chosen], length=session.config.sample_length
        )
    return "\n".join(
        f"{source} -> {found}" + ("" if found == target else f"  (expected: {target})")
        for (source, target), found in zip(chosen, written, strict=True)
    )


def _sample(session: Session) -> str:
    """The beginning of the evaluation text, and how the model goes on; or what it finds in it."""
    if session.inputs.pairs is not None:
        return _sample_pairs(session, session.inputs.pairs)
    tokenizer, dataset = session.inputs.tokenizer, session.inputs.evaluation[0]
    if isinstance(session.objective, MaskedObjective):
        masking = Masking.of(tokenizer, session.config.mask_share)
        length = session.config.sample_length
        return guessed(session.objective, dataset, masking, tokenizer, length=length)
    length = min(_PROMPT_TOKENS, session.config.seq_len - 1, len(dataset))
    # These very ids: their text might be cut in another way, without names of special tokens.
    prompt = dataset.read(0, length).tolist()
    sampling = SamplingConfig(
        max_new_tokens=session.config.sample_length, seed=session.config.seed, temperature=0.8
    )
    with _generator(session) as generator:
        (drawn,) = generator.generate_ids([prompt], sampling)
    stream = TextStream(tokenizer, prompt=prompt)
    continuation = "".join(map(stream.push, drawn)) + stream.finish()
    return f"{tokenizer.decode(prompt)}|{continuation}"
