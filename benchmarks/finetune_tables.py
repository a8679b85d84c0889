"""The tables of the pages on fine-tuning and on loading."""

from collections.abc import Sequence
from typing import Any

from measure import Table, spread

Result = dict[str, Any]


def finetune_tables(result: Result) -> list[Table]:
    """How the contenders did in each precision; what follows; whether they did the same."""
    shape, rows = result["shape"], result["rows"]
    what = (
        f"{shape['num_layers']} layers, width {shape['embed_dim']}, vocabulary "
        f"{shape['vocab_size']:,}, batches of {result['batch_size']} x {result['seq_len']}"
    )
    columns = [
        "tokens/s",
        "MB of gradients and optimizer state",
        "peak MB",
        "s of loading",
        "its peak, in files",
    ]
    tables = [
        Table(
            ["", *columns],
            [finetune_row(row, len(columns)) for row in rows if row["precision"] == precision],
            f"{precision}: {what}",
        )
        for precision in dict.fromkeys(row["precision"] for row in rows)
    ]
    if result["claims"]:
        tables.append(finetune_claims(result["claims"]))
    if result["checks"]:
        tables.append(finetune_checks(result["checks"]))
    return tables


def finetune_row(row: Result, columns: int) -> list[str]:
    """A contender's cells, or why it has none."""
    name = f"{row['way']}: {row['name']}"
    if "failed" in row:
        return [name, f"failed: {row['failed']}", *[""] * (columns - 1)]
    return [
        name,
        spread(row["tokens_per_second"], ",.0f"),
        f"{(row['gradient_bytes'] + row['optimizer_bytes']) / 1e6:,.1f}",
        spread(row["peak_mb"], ",.0f"),
        spread(row["load_seconds"], ".2f"),
        spread(row["load_files"], ".2f"),
    ]


def finetune_claims(claims: Sequence[Result]) -> Table:
    columns = {
        "kept_of_full": "gradients and state, of full",
        "speed_of_full": "speed, full = 1",
        "speed_of_peer": "speed, peer = 1",
        "peak_of_peer": "peak, peer = 1",
    }

    def cell(name: str, value: float | None) -> str:
        return "" if value is None else f"{value:.1%}" if name == "kept_of_full" else f"{value:.2f}"

    return Table(
        ["", *columns.values()],
        [
            [
                f"{claim['precision']}, {claim['way']}: {claim['library']}",
                *(cell(name, claim.get(name)) for name in columns),
            ]
            for claim in claims
        ],
        "Each at its fastest, compiled or not",
    )


def finetune_checks(checks: Sequence[Result]) -> Table:
    return Table(
        ["", "weights trained", "loss, nats", "apart at first", "apart at most", "bound", "agree"],
        [
            [
                f"{check['precision']}, {check['way']}",
                " and ".join(
                    f"{number:,}" for number in dict.fromkeys(check["trained_parameters"])
                ),
                " to ".join(f"{loss:.3f}" for loss in check["losses"]),
                f"{check['first_difference']:.1e}",
                f"{check['largest_difference']:.1e}",
                f"{check['bound']:.1e}",
                "yes" if check["agree"] else "no",
            ]
            for check in checks
        ],
        "gptlab and its peer, not compiled, over all steps",
    )


def loading_tables(result: Result) -> list[Table]:
    rows, shape = result["results"], result["shape"]
    header = ["", "seconds", "seconds, weights touched", "peak MB", "peak, in sizes of the file"]
    return [
        Table(
            header,
            [
                [
                    row["name"],
                    spread(row["seconds"], ".2f"),
                    spread(row["touched_seconds"], ".2f"),
                    spread(row["peak_mb"], ",.0f"),
                    spread(row["peak_files"], ".2f"),
                ]
                for row in rows
                if row["precision"] == precision
            ],
            f"{precision}: {shape['num_layers']} layers, width {shape['embed_dim']}, vocabulary "
            f"{shape['vocab_size']:,}; a file of "
            f"{next(row['file_bytes'] for row in rows if row['precision'] == precision) / 1e6:,.0f}"
            " MB",
        )
        for precision in dict.fromkeys(row["precision"] for row in rows)
    ]
