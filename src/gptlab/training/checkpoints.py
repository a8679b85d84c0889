"""When a run saves, and under which name."""

from functools import partial

from gptlab import checkpoint
from gptlab.training.run_folder import BEST, LAST, remove_older
from gptlab.training.session import Session
from gptlab.training.state import save_state


def is_checkpoint_due(session: Session) -> bool:
    """Whether the step just made calls for a checkpoint that is kept."""
    config, step = session.config, session.state.step
    if config.save_every is not None:
        return step % config.save_every == 0
    return session.crossed_epochs(config.save_every_epochs)


def save_numbered(session: Session) -> None:
    """The model as `NAME_e5` after epoch 5, or `NAME_s500` where steps decide."""
    step, name = session.state.step, session.folder.name
    if session.config.save_every is not None:
        label = f"{name}_s{step}"
    else:
        label = f"{name}_e{int(session.sampler.epoch(step))}"
    checkpoint.save(session.folder / label, session.model, session.inputs.tokenizer, step=step)


def save_best(session: Session) -> None:
    """The model as `best-STEP`, in place of the former one."""
    step = session.state.step
    folder = session.folder / f"{BEST}-{step}"
    checkpoint.save(folder, session.model, session.inputs.tokenizer, step=step)
    remove_older(session.folder, BEST, kept=folder)


def save_last(session: Session) -> None:
    """The model and the state of training as `last-STEP`, in place of the former one."""
    step = session.state.step
    folder = session.folder / f"{LAST}-{step}"
    trainer = partial(
        save_state,
        state=session.state,
        model=session.model,
        optimizer=session.optimizer,
        scaler=session.scaler,
    )
    checkpoint.save(folder, session.model, session.inputs.tokenizer, step=step, extra=trainer)
    remove_older(session.folder, LAST, kept=folder)
