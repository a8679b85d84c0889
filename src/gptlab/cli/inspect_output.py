"""What gptlab-inspect says in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptlab.cli.eval_output import Row

if TYPE_CHECKING:
    from gptlab.evaluation.reading import Reading, ReadToken

_WORST = 5


def rows_of(name: str, readings: "Sequence[Reading]") -> list[Row]:
    """What a model's readings come to, and the tokens that it foresaw the least."""
    from gptlab.evaluation.reading import totals

    together = totals(readings)
    tokens = [token for reading in readings for token in reading.tokens]
    return [
        ("model", name),
        ("tokens", f"{together.tokens:,} predicted"),
        ("loss", f"{together.loss:.4f} nats per token"),
        ("bits per byte", f"{together.bits_per_byte:.4f}"),
        *_worst(tokens),
    ]


def _worst(tokens: "Sequence[ReadToken]") -> list[Row]:
    """A row for each of the tokens with the largest losses, the largest first."""
    losses = [(token.figures.nats, token) for token in tokens if token.figures is not None]
    losses.sort(key=lambda pair: -pair[0])
    rows: list[Row] = []
    for nats, token in losses[:_WORST]:
        (likeliest, share), *_ = token.alternatives
        what = f"{nats:.2f} nats for '{token.shown}', after {share:.0%} on '{likeliest}'"
        rows.append(("" if rows else "worst", what))
    return rows
