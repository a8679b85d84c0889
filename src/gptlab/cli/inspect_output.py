"""What gptlab-inspect says in the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gptlab.cli.eval_output import Row, table

if TYPE_CHECKING:
    from gptlab.evaluation.inspection import Findings
    from gptlab.evaluation.reading import Reading

_WORST = 5
_NO_PAGE: tuple[Row, ...] = (
    ("loss", "no page: it is of next tokens, and an encoder fills in masked ones"),
)


def report(models: "Mapping[str, Sequence[Findings]]") -> str:
    """What each model's readings come to."""
    tables = []
    for name, findings in models.items():
        readings = [one.reading for one in findings if one.reading is not None]
        tables.append(table([("model", name), *(_rows(readings) if readings else _NO_PAGE)]))
    return "\n\n".join(tables)


def _rows(readings: "Sequence[Reading]") -> list[Row]:
    from gptlab.evaluation.reading import totals

    together = totals(readings)
    return [
        ("tokens", f"{together.tokens:,} predicted"),
        ("loss", f"{together.loss:.4f} nats per token"),
        ("bits per byte", together.shown_bits),
        *_worst(readings),
    ]


def _worst(readings: "Sequence[Reading]") -> list[Row]:
    """A row for each of the tokens with the largest losses, the largest first."""
    losses = [
        (token.figures.nats, place, token)
        for reading in readings
        for place, token in enumerate(reading.tokens, start=1)
        if token.figures is not None
    ]
    losses.sort(key=lambda one: -one[0])
    rows: list[Row] = []
    for nats, place, token in losses[:_WORST]:
        (likeliest, share), *_ = token.alternatives
        what = f"{nats:.2f} nats for '{token.shown}', token {place}: {share:.0%} on '{likeliest}'"
        rows.append(("" if rows else "worst", what))
    return rows
