"""Tables of the benchmarks of Transformers."""

from typing import Any

from measure import Table, spread

Result = dict[str, Any]


def toy_pairs_tables(result: Result) -> list[Table]:
    rows = [
        [name, spread(figures, ".1f") if "seconds" in name else spread(figures, ".2%")]
        for name, figures in result["results"].items()
    ]
    curve = result["curves"][0]
    learning = Table(
        ["steps", "seconds", "loss, nats a token", "targets right"],
        [
            [f"{step:,}", f"{seconds:.0f}", f"{loss:.4f}", f"{right:.2%}"]
            for step, seconds, loss, right in curve
        ],
        "The learning curve of seed 0, on held-out pairs",
    )
    caption = (
        f"{result['parameters']:,} parameters, {result['steps']:,} steps, {result['seeds']} seeds"
    )
    return [Table(["", "median (least–greatest)"], rows, caption), learning]
