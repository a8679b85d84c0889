"""The training loop: one, plain, read from top to bottom."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gptlab.config import TrainConfig
from gptlab.model.head import Head
from gptlab.training.beginning import begun, choose_computation
from gptlab.training.checkpoints import Saver, is_checkpoint_due
from gptlab.training.determinism import deterministic
from gptlab.training.ending import closing_lines, is_over
from gptlab.training.examine import examine, is_evaluation_due
from gptlab.training.interrupt import BrokenOffError, Interrupt
from gptlab.training.memory import explained_memory
from gptlab.training.objective import Forward
from gptlab.training.plots import plot_run
from gptlab.training.ranks import joined
from gptlab.training.recorder import Recorder, is_record_due
from gptlab.training.session import Session, open_session
from gptlab.training.step import train_step


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    path: Path
    """The run's folder, which `gptlab.load` takes."""
    steps: int
    """Optimizer steps taken, those before a resume included."""
    eval_loss: float | None
    """Nats per token, or a head's loss, at the last evaluation; None before the first."""
    best_eval_loss: float | None
    """The lowest of all evaluations."""
    interrupted: bool
    """Whether Ctrl-C or SIGTERM ended it; it can be resumed."""


def train(config: TrainConfig, *, head: type[Head] | None = None) -> TrainResult:
    """Train a network as `config` says, writing everything into its run's folder.

    Prints what it will do, then trains, evaluates, samples and saves until the steps are done, or
    patience or time runs out, or a signal comes. Each batch, and each dropout mask, is a function
    of the seed and the step. In a process that torchrun started, it is one of a job's.

    Args:
        config: The run.
        head: The class of a head of one's own, which `config.head` calls 'own'; its `loss` is
            what training minimises.

    Raises:
        GptlabError: A setting, a file or a device does not fit, or the numbers are not finite.
    """
    with joined(config.device) as ranks, explained_memory():
        session = open_session(config, ranks, own_head=head)
        device = session.arithmetic.device
        with deterministic(session.config.deterministic, device), closing(session.loader):
            session, forward = choose_computation(session)
            with begun(session) as metrics:
                return _run(session, forward, Recorder(session, metrics))


def _run(session: Session, forward: Forward, recorder: Recorder) -> TrainResult:
    """Train from the session's step to the end, or to a signal."""
    state, ranks = session.state, session.ranks
    is_silent = session.config.quiet or not ranks.is_first
    bar = tqdm(
        total=session.total_steps,
        initial=state.step,
        unit="step",
        # None draws a bar on a terminal, but not into a log.
        disable=True if is_silent else None,
        leave=False,
    )
    interrupts = Interrupt(may_repeat=ranks.size > 1, answers=not is_silent)
    with interrupts as interrupt, Saver(session) as saver, bar:
        while True:
            with recorder.paused():
                is_stopped = not _look(session, recorder, saver, interrupt)
            if is_stopped or is_over(session):
                break
            if is_stopped := ranks.any(interrupt.requested):
                break
            report = train_step(session, forward)
            recorder.count(report)
            bar.update()
            if is_record_due(session):
                bar.set_postfix_str(recorder.write_training())
            if report.failure is not None:
                # The former checkpoint stays: the weights that led here are no place to go on from.
                raise report.failure
        saver.save(final=True)
    session.say(closing_lines(session, is_stopped=is_stopped))
    return TrainResult(
        path=session.folder,
        steps=state.step,
        eval_loss=state.eval_loss,
        best_eval_loss=state.best_loss,
        interrupted=is_stopped,
    )


def _look(session: Session, recorder: Recorder, saver: Saver, interrupt: Interrupt) -> bool:
    """Evaluate and save if the step just made calls for it and was not looked at yet.

    False if a signal broke the evaluation off; a run that is resumed begins with it.
    """
    state, is_best = session.state, False
    is_kept, is_due = is_checkpoint_due(session), is_evaluation_due(session)
    if state.examined == state.step or not (is_kept or is_due):
        return True
    if is_due:
        try:
            evaluation, is_best = examine(session, interrupt)
        except BrokenOffError:
            return False
        recorder.write_evaluation(evaluation)
        if is_over(session) and recorder.is_pending:
            recorder.write_training()
        if session.ranks.is_first:
            plot_run(session.folder)
    state.examined = state.step
    saver.save(numbered=is_kept, best=is_best)
    return True
