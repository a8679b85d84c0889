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


def transformer_tables(result: Result) -> list[Table]:
    return [transformer_table(part) for part in result["parts"]]


def transformer_table(part: Result) -> Table:
    """Contenders in one kind of work; the last columns show that they do the same."""
    shape, kind = part["shape"], part["kind"]
    caption = (
        f"{part['title']}: {shape['num_layers']} + {shape['num_layers']} layers, width "
        f"{shape['embed_dim']}, {shape['n_heads']} heads, vocabulary {shape['vocab_size']:,}"
    )
    if kind == "training":
        caption += f", {part['batch_size']} rows of {part['length']} + {part['length']} tokens"
    elif kind == "pairs":
        caption += f", {part['batch_size']} rows"
    else:
        caption += f", sources of {part['length']} tokens, {part['new_tokens']} new ones"
    columns = {
        "training": {"loss before": "loss_before", "after warm-up": "loss_after_steps"},
        # Other batches lead to other losses.
        "pairs": {"loss before": "loss_before"},
        "generation": {"the same tokens": "same_tokens"},
    }[kind]
    form = ".1%" if kind == "generation" else ".4f"
    rows = [
        [
            row["name"],
            spread(row["tokens_per_second"], ",.0f"),
            f"{row['times_peer']:.2f}" if "times_peer" in row else "",
            f"{row['first_seconds']:.1f}",
            *(format(row[key], form) if key in row else "" for key in columns.values()),
        ]
        for row in part["contenders"]
    ]
    unit = "call" if kind == "generation" else "step"
    header = ["", "tokens/s", "uncompiled peer = 1", f"first {unit}, s", *columns]
    return Table(header, rows, caption)
