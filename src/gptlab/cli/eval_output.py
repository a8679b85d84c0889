"""What gptlab-eval leaves behind: a table in the terminal, and a file of figures."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.config.settings import Settings

if TYPE_CHECKING:
    from gptlab.evaluation import LineScores, MaskedScores, PassScores, TokenScores

TEXT_OF_RUN = "the evaluation text of its run"
_FEW = 5

Row = tuple[str, str]


def save(path: Path, figures: dict[str, Any]) -> None:
    """Write `figures` as JSON; a number that is not known is null."""
    # Here, so that --help is answered without torch.
    from gptlab.training.files import replace_text

    replace_text(path, json.dumps(_plain(figures), indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def token_rows(scores: "TokenScores", *, seq_len: int) -> list[Row]:
    """How well tokens were predicted."""
    known = not math.isnan(scores.bits_per_byte)
    return [
        ("tokens", f"{scores.tokens:,} in {scores.windows:,} window(s) of up to {seq_len:,}"),
        ("loss", f"{with_error(scores.loss, scores.loss_error)} nats per token"),
        ("perplexity", f"{scores.perplexity:.4g}"),
        ("bits per byte", f"{scores.bits_per_byte:.4f}" if known else "not known"),
        ("next token is first", share(scores.top1, scores.top1_error)),
        ("next token in first 5", share(scores.top5, scores.top5_error)),
    ]


def masked_rows(scores: "MaskedScores", *, seq_len: int) -> list[Row]:
    """How well hidden tokens were found."""
    hidden = f"{scores.masked_tokens:,} hidden, {scores.mask_share:g} of those"
    return [
        ("tokens", f"{hidden} in {scores.windows:,} window(s) of up to {seq_len:,}"),
        ("loss", f"{with_error(scores.loss, scores.loss_error)} nats per hidden token"),
        ("perplexity", f"{scores.perplexity:.4g}"),
        ("found", share(scores.masked_accuracy, scores.masked_accuracy_error)),
    ]


def line_rows(scores: "LineScores") -> list[Row]:
    """How well lines were written."""
    return [
        ("lines", f"{scores.lines:,}"),
        ("next line exact", share(scores.exact, scores.exact_error)),
        ("but for outer spaces", share(scores.stripped, scores.stripped_error)),
        ("edit similarity", share(scores.similarity, scores.similarity_error)),
    ]


def pass_rows(scores: "PassScores") -> list[Row]:
    """How often programs passed, and how the others came out."""
    rows = [
        (f"pass@{k}", share(value, scores.pass_at_error[k])) for k, value in scores.pass_at.items()
    ]
    total = sum(scores.outcomes.values())
    common = list(scores.outcomes.items())[:_FEW]
    rows += [(outcome, f"{count:,} of {total:,}") for outcome, count in common]
    rest = total - sum(count for _, count in common)
    return [*rows, ("others", f"{rest:,} of {total:,}")] if rest else rows


def with_error(value: float, error: float) -> str:
    """A number and its error, which is NaN where it is not known."""
    return f"{value:.4f}" if math.isnan(error) else f"{value:.4f} ± {error:.4f}"


def share(value: float, error: float) -> str:
    """A share and its error in percent; likewise."""
    return f"{value:.2%}" if math.isnan(error) else f"{value:.2%} ± {100 * error:.2f}"


def _plain(value: Any) -> Any:
    """`value` as JSON takes it."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Settings):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
