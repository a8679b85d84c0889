"""The training loop: one, plain, read from top to bottom."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gptlab.config import TrainConfig
from gptlab.training.checkpoints import is_checkpoint_due, save_best, save_last, save_numbered
from gptlab.training.compiling import choose_forward
from gptlab.training.ending import closing_lines, is_over
from gptlab.training.examine import drop_later_samples, examine, is_evaluation_due
from gptlab.training.interrupt import Interrupt
from gptlab.training.memory import explained_memory
from gptlab.training.metrics import MetricsLog
from gptlab.training.plan import describe, probe
from gptlab.training.plots import plot_run
from gptlab.training.recorder import Recorder
from gptlab.training.run_folder import LAST, create_run, drop_later_checkpoints
from gptlab.training.session import open_session
from gptlab.training.step import train_step


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    path: Path
    """The run's folder, which `gptlab.load` takes."""
    steps: int
    """Optimizer steps taken, those before a resume included."""
    eval_loss: float | None
    """Nats per token at the last evaluation; None before the first."""
    best_eval_loss: float | None
    """The lowest of all evaluations."""
    interrupted: bool
    """Whether Ctrl-C or SIGTERM ended it; it can be resumed."""


def train(config: TrainConfig) -> TrainResult:
    """Train a GPT as `config` says, writing everything into its run's folder.

    Prints what it will do, then trains, evaluates, samples and saves until the steps are done, or
    patience or time runs out, or a signal comes. Each batch, and each dropout mask, is a function
    of the seed and the step.

    Raises:
        GptlabError: A setting, a file or a device does not fit, or the loss is not finite.
    """
    with explained_memory():
        session = open_session(config)
        config, state, total_steps = session.config, session.state, session.total_steps
        forward = choose_forward(
            session.model, config.compile, try_out=lambda f: probe(session, f), say=session.say
        )
        session.say(describe(session, probe(session, forward)))
    create_run(session.folder, config)
    drop_later_checkpoints(session.folder, state.step)
    drop_later_samples(session)
    metrics = MetricsLog(session.folder, after_step=state.step, tensorboard=config.tensorboard)
    bar = tqdm(
        total=total_steps, initial=state.step, unit="step", disable=config.quiet, leave=False
    )
    recorder = Recorder(session)
    with Interrupt() as interrupt, closing(metrics), closing(session.loader), bar:
        while not is_over(session) and not interrupt.requested:
            recorder.count(*train_step(session, forward))
            bar.update()
            if state.step % config.log_every == 0 or state.step == total_steps:
                record = recorder.training_record()
                metrics.write(record)
                speed = f"{record['tokens_per_second']:,.0f} tok/s"
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {speed}")
            with recorder.paused():
                if evaluated := is_evaluation_due(session):
                    evaluation, is_best = examine(session)
                    metrics.write(recorder.evaluation_record(evaluation))
                    plot_run(session.folder)
                    if is_best:
                        save_best(session)
                if kept := is_checkpoint_due(session):
                    save_numbered(session)
                if evaluated or kept:
                    save_last(session)
        if is_over(session) and recorder.is_pending:
            metrics.write(recorder.training_record())
        if interrupt.requested and not (session.folder / f"{LAST}-{state.step}").exists():
            save_last(session)
    session.say(closing_lines(session))
    return TrainResult(
        path=session.folder,
        steps=state.step,
        eval_loss=state.eval_loss,
        best_eval_loss=state.best_loss,
        interrupted=interrupt.requested and not is_over(session),
    )
