"""How gptlab-eval measures what reads texts: their tokens, lines and hidden tokens, or programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.cli.eval_output import TEXT_OF_RUN, line_rows, masked_rows, pass_rows, token_rows
from gptlab.config import SamplingConfig

if TYPE_CHECKING:
    from gptlab.cli.eval import EvalCommand
    from gptlab.evaluation import Problem, Subject
    from gptlab.evaluation.inspected import Inspected

_LINE_TOKENS, _PROGRAM_TOKENS = 128, 256
_USUAL_K = (1, 10, 100)


def text_figures(command: "EvalCommand", subject: "Subject") -> dict[str, Any]:
    """Figures of a text, and the rows of their table."""
    from gptlab.evaluation import held_out_text, sample_lines, score_lines, score_tokens

    seq_len = subject.model.config.seq_len
    datasets = held_out_text(subject, command.data, runs_dir=command.runs_dir, field=command.field)
    lines = []
    if command.completion:
        lines = sample_lines(datasets, subject.tokenizer, count=command.lines, seed=command.seed)
    tokens = score_tokens(subject, datasets, batch_size=command.batch_size)
    rows = [("text", " ".join(command.data) or TEXT_OF_RUN), *token_rows(tokens, seq_len=seq_len)]
    figures: dict[str, Any] = {"data": command.data, "tokens": tokens}
    if lines:
        scores = score_lines(
            subject,
            lines,
            max_new_tokens=command.max_new_tokens or min(_LINE_TOKENS, seq_len // 2),
            batch_size=command.batch_size,
        )
        rows += line_rows(scores)
        figures |= {"lines": scores, "seed": command.seed}
    return {"rows": rows, **figures}


def masked_figures(command: "EvalCommand", found: "Inspected") -> dict[str, Any]:
    """Figures of tokens that are hidden, and the rows of their table."""
    from gptlab.evaluation import held_out_text
    from gptlab.evaluation.masked import score_masked

    datasets = held_out_text(found, command.data, runs_dir=command.runs_dir, field=command.field)
    scores = score_masked(found, datasets, batch_size=command.batch_size)
    rows = masked_rows(scores, seq_len=found.model.config.seq_len)
    where = " ".join(command.data) or TEXT_OF_RUN
    return {"rows": [("text", where), *rows], "data": command.data, "masked": scores}


def program_figures(
    command: "EvalCommand", subject: "Subject", problems: "list[Problem]"
) -> dict[str, Any]:
    """Figures of programs, and the rows of their table; or the programs themselves in a file."""
    from gptlab.evaluation.execution import Limits
    from gptlab.evaluation.pass_at_k import STOP, require_sound, score_samples, write_samples
    from gptlab.training.files import replace_text

    limits = Limits(seconds=command.timeout)
    if command.samples_only is None:
        require_sound(problems, limits=limits, workers=command.workers)
    config = SamplingConfig(
        max_new_tokens=command.max_new_tokens or _PROGRAM_TOKENS,
        temperature=command.temperature,
        top_p=command.top_p,
        seed=command.seed,
        stop=STOP,
    )
    samples = write_samples(
        subject, problems, samples=command.samples, config=config, batch_size=command.batch_size
    )
    rows = [
        ("problems", f"{len(problems):,} in {command.humaneval}"),
        ("samples", f"{command.samples:,} of each, at temperature {command.temperature:g}"),
    ]
    figures: dict[str, Any] = {"humaneval": command.humaneval, "sampling": config}
    if command.samples_only is not None:
        replace_text(Path(command.samples_only), "".join(sample.line() for sample in samples))
        return {"rows": [*rows, ("written to", command.samples_only)], **figures}
    ks = command.k or [k for k in _USUAL_K if k <= command.samples]
    scores = score_samples(problems, samples, ks=ks, limits=limits, workers=command.workers)
    return {"rows": rows + pass_rows(scores), **figures, "programs": scores}
