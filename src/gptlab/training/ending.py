"""When a run ends, and what it says then."""

from gptlab.checkpoint import find_checkpoint
from gptlab.training.run_folder import BEST
from gptlab.training.session import Session


def is_over(session: Session) -> bool:
    """Whether there is no further step: the last was made, or patience or time ran out."""
    return (
        session.state.step >= session.total_steps
        or is_out_of_time(session)
        or is_out_of_patience(session)
    )


def is_out_of_patience(session: Session) -> bool:
    """Whether early stopping ends the run."""
    return 0 < session.config.patience <= session.state.evaluations_since_best


def is_out_of_time(session: Session) -> bool:
    """Whether the run has used the minutes that it was given."""
    minutes = session.config.max_minutes
    return minutes is not None and session.state.elapsed_seconds >= 60 * minutes


def closing_lines(session: Session) -> str:
    """What came of the run, and the command that comes next."""
    state, folder = session.state, session.folder
    if not is_over(session):
        runs = session.config.runs_dir
        where = "" if runs == "runs" else f" --runs_dir {runs}"
        return (
            f"stopped after step {state.step:,}; go on with "
            f"gptlab-train --resume --experiment_name {folder.name}{where}"
        )
    if state.eval_loss is None or state.best_loss is None:
        return f"done after {state.step:,} steps"
    best = find_checkpoint(folder / BEST)
    model = folder if state.eval_loss <= state.best_loss else best
    return (
        f"done after {state.step:,} steps{_reason(session)}: evaluation loss "
        f"{state.eval_loss:.4f}, best {state.best_loss:.4f} in {best}\n"
        f'now: gptlab-generate --model_path {model} --prompt "..."'
    )


def _reason(session: Session) -> str:
    if session.state.step >= session.total_steps:
        return ""
    if is_out_of_patience(session):
        return f", the last {session.config.patience} evaluations without improvement"
    return f", in the {session.config.max_minutes:g} minutes it was given"
