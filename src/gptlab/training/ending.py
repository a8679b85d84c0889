"""When a run ends, and what it says then."""

import shlex

from gptlab.checkpoint import checkpoints_in
from gptlab.tokenizer.mask import mask_name
from gptlab.training.ranks import Ranks
from gptlab.training.run_checkpoints import BEST
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


def closing_lines(session: Session, *, is_stopped: bool) -> str:
    """What came of the run, or that a signal stopped it, and the command that comes next."""
    state, folder = session.state, session.folder
    if is_stopped:
        runs = session.config.runs_dir
        where = "" if runs == "runs" else f" --runs_dir {shlex.quote(runs)}"
        return (
            f"stopped after step {state.step:,}; go on with "
            f"{_command(session.ranks)} --resume --experiment_name {folder.name}{where}"
        )
    done = f"done after {state.step:,} steps{_reason(session)}"
    if state.eval_loss is None or state.best_loss is None:
        return done
    is_best = state.eval_loss <= state.best_loss
    saved = [path for path in checkpoints_in(folder) if path.name.startswith(f"{BEST}-")]
    where = f" in {saved[0]}" if saved else ""
    model = folder if is_best or not saved else saved[0]
    command = f'gptlab-generate --model_path {model} --prompt "..."'
    if session.inputs.pairs is not None:
        command = f'gptlab-generate --model_path {model} --source "..."'
    if session.config.learns_masks:
        mask = mask_name(session.inputs.tokenizer)
        command = f'gptlab-predict --model_path {model} --text "... {mask} ..."'
    if session.inputs.labelled is not None:
        command = f'gptlab-predict --model_path {model} --text "..."'
    return (
        f"{done}: evaluation loss {state.eval_loss:.4f}, best {state.best_loss:.4f}{where}\n"
        f"now: {command}"
    )


def _command(ranks: Ranks) -> str:
    if ranks.size == 1:
        return "gptlab-train"
    # Where the machines meet, this process does not know.
    how = f"--nproc_per_node {ranks.size}" if ranks.local_size == ranks.size else "..."
    return f"torchrun {how} -m gptlab.cli.train"


def _reason(session: Session) -> str:
    if session.state.step >= session.total_steps:
        return ""
    if is_out_of_patience(session):
        return f", the last {session.config.patience} evaluations without improvement"
    return f", in the {session.config.max_minutes:g} minutes it was given"
