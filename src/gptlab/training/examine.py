"""A look at the model during training: its loss, and a sample of its text."""

import math
import os

from gptlab.config import SamplingConfig
from gptlab.generation import Generator
from gptlab.training.ending import is_out_of_time
from gptlab.training.evaluate import Evaluation, evaluate
from gptlab.training.losses import diverged
from gptlab.training.session import Session

SAMPLES = "samples.txt"
_PROMPT_TOKENS = 8


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


def examine(session: Session) -> tuple[Evaluation, bool]:
    """Evaluate, sample and report; the result, and whether it is the best so far.

    Draws from a generator of its own, so looking never changes the run.

    Raises:
        TrainingError: The loss is not finite.
    """
    evaluation = evaluate(
        session.model,
        *session.inputs.evaluation,
        batch_size=session.config.batch_size,
        arithmetic=session.arithmetic,
        document_mask=session.config.document_mask,
        reset_positions=session.config.reset_positions,
    )
    if not math.isfinite(evaluation.loss):
        raise diverged(evaluation.loss, session.state.step)
    is_best = session.state.note_evaluation(evaluation.loss)
    session.say(_report(session, evaluation, is_best))
    if session.config.sample_length:
        text = _sample(session)
        session.say("  " + text.replace("\n", "\n  "))
        with (session.folder / SAMPLES).open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(f"--- step {session.state.step}\n{text}\n\n")
            session.state.samples_size = stream.tell()
    return evaluation, is_best


def _report(session: Session, evaluation: Evaluation, is_best: bool) -> str:
    line = (
        f"step {session.state.step:,}: evaluation loss {evaluation.loss:.4f}, "
        f"perplexity {evaluation.perplexity:.2f}, {evaluation.bits_per_byte:.3f} bits per byte"
    )
    floor = session.inputs.floor
    if floor is not None:
        above = evaluation.nats_per_character - floor
        line += f", {above:.4f} nats per character above the floor of {floor:.4f}"
    return f"{line}, the best so far" if is_best else line


def _sample(session: Session) -> str:
    """The beginning of the evaluation text, and how the model goes on."""
    tokenizer, dataset = session.inputs.tokenizer, session.inputs.evaluation[0]
    length = min(_PROMPT_TOKENS, session.config.seq_len - 1, len(dataset))
    prompt = tokenizer.decode(dataset.read(0, length).tolist())
    sampling = SamplingConfig(
        max_new_tokens=session.config.sample_length, seed=session.config.seed, temperature=0.8
    )
    was_training = session.model.training
    with session.arithmetic.autocast():
        continuation = Generator(session.model, tokenizer).generate(prompt, sampling)
    session.model.train(was_training)
    return f"{prompt}|{continuation}"
