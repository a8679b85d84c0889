"""Write benchmarks/README.md: on one page, what the results in benchmarks/results/ say.

    python benchmarks/report.py

A benchmark has an entry in BENCHMARKS, which says how its results become tables; one without an
entry gets a table of all its medians.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from finetune_tables import finetune_tables, loading_tables
from measure import Table, spread, write_result
from transformer_tables import toy_pairs_tables, transformer_tables

Result = dict[str, Any]
HERE = Path(__file__).parent
PAGE = HERE / "README.md"
PREFACE = """# Benchmarks

Each benchmark runs gptlab and its peers side by side in one go, on the same inputs and the same
cores, and writes its result to `results/`. `python benchmarks/report.py` makes this page of them.
Where three numbers stand together they are the median and, in brackets, the least and the greatest.
"""


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark's results are presented."""

    title: str
    command: str
    """Arguments of python that make the result."""
    tables: Callable[[Result], Sequence[Table]]


def batch_splits_tables(result: Result) -> list[Table]:
    results = result["results"]
    names = list(next(iter(results.values())))
    rows = [
        [split, *(f"{values[name]:.1e}" for name in names)] for split, values in results.items()
    ]
    return [
        Table(
            ["split", *(f"{name}, nats" if name == "loss of a run" else name for name in names)],
            rows,
            "Largest difference of a gradient from the batch in one piece, in units of the largest "
            "number of its tensor",
        )
    ]


def parity_tables(result: Result) -> list[Table]:
    parts = [("transformers", "the last two columns", result)]
    if "encoder_decoders" in result:
        parts.append(("other Transformers", "the last column", result["encoder_decoders"]))
    return [_parity_table(*part) for part in parts]


def _parity_table(peer: str, single: str, part: Result) -> Table:
    results = part["results"]
    names = list(next(iter(results.values())))
    rows = [
        [model, *(f"{values[name]:.1e}" if name in values else "" for name in names)]
        for model, values in results.items()
    ]
    shape = ", ".join(f"{name} {value}" for name, value in part["shape"].items())
    caption = (
        f"Largest difference from {peer}, in units of the largest number of its tensor; in "
        f"float64 but for {single}; {shape}"
    )
    return Table(["", *names], rows, caption)


def generation_equality_tables(result: Result) -> list[Table]:
    rows = [
        [claim, f"{entry['compared']:,} logits", f"{entry['largest_difference']:.1e}"]
        for claim, entry in result["logits"].items()
    ]
    rows += [
        [claim, f"{entry['compared']:,} tokens", f"{entry['differing']:,}"]
        for claim, entry in result["tokens"].items()
    ]
    header = ["", "compared", "largest difference of logits, or tokens that differ"]
    return [Table(header, rows, f"{result['models']} models of random parts, fp32")]


def export_check_tables(result: Result) -> list[Table]:
    results = result["results"]
    readers = list(
        dict.fromkeys(name for entry in results.values() for name in entry["differences"])
    )
    rows = [
        [
            name,
            str(entry["models"]),
            entry["architecture"],
            *(
                f"{entry['differences'][reader]:.1e}" if reader in entry["differences"] else ""
                for reader in readers
            ),
            f"{entry['same_tokens']:,} of {entry['tokens']:,}",
            "" if entry["lead"] is None else f"{entry['lead']:.1e}",
            f"{entry['same_texts']:,} of {entry['texts']:,}",
        ]
        for name, entry in results.items()
    ]
    header = [
        "",
        "models",
        "in llama.cpp",
        *readers,
        "greedy tokens",
        "lead of a lost one",
        "texts of equal ids",
    ]
    caption = (
        "Largest difference of a logit in units of the largest one, and what llama.cpp makes the "
        "same of its file"
    )
    return [Table(header, rows, caption)]


def bpe_encoding_tables(result: Result) -> list[Table]:
    results = result["results"]
    header = [f"{entry['text']}, {entry['vocab_size']:,}" for entry in results]
    contenders = list(zip(*(entry["contenders"] for entry in results), strict=True))
    return [
        Table(
            ["", *header],
            [
                [column[0]["name"], *(spread(entry["mb_per_second"], ".1f") for entry in column)]
                for column in contenders
                if column[0]["cores"] == cores
            ],
            f"MB/s, by text and vocabulary; cores: {cores}",
        )
        for cores in dict.fromkeys(column[0]["cores"] for column in contenders)
    ]


def bpe_training_tables(result: Result) -> list[Table]:
    return [
        Table(
            ["", "seconds", "time, gptlab = 1", f"peak MB ({result['memory']})"],
            [
                [
                    name,
                    spread(figures["seconds"], ".2f"),
                    f"{setting['times_gptlab'][name]['seconds']:.2f}",
                    f"{figures['peak_mb']['median']:,.0f}",
                ]
                for name, figures in setting["contenders"].items()
            ],
            f"{setting['corpus']['bytes'] / 1e6:,.0f} MB of text, {setting['merges']:,} merges",
        )
        for setting in result["settings"]
    ]


def decode_tables(result: Result) -> list[Table]:
    tables = [decode_table(part) for part in result["parts"]]
    if "first_token" in result:
        rows = [decode_row(entry, ["seconds"], 1) for entry in result["first_token"]]
        caption = "From the start of the command to its first token, about 10M parameters"
        tables.append(Table(["", "seconds"], rows, caption))
    return tables


def decode_table(part: Result) -> Table:
    """Contenders in one setting; what the kind of the setting asks for in the columns."""
    columns = ["tokens/s"]
    if part["kind"] == "latency":
        columns = ["µs a token", "of which beyond reading"]
    if part["kind"] == "prefill":
        columns = ["ms", "tokens/s"]
    if part["kind"] == "decode" and part["gb_per_second"]:
        columns += ["share of the bandwidth"]
    shape, rows = part["shape"], part["batch"]
    caption = (
        f"{part['title']}: {shape['num_layers']} layers, width {shape['embed_dim']}, vocabulary "
        f"{shape['vocab_size']:,}, {rows} row{'s' * (rows > 1)}, {part['prompt_tokens']} tokens "
        f"and {part['new_tokens']} new"
    )
    for name, rates in part["gb_per_second"].items():
        caption += f"; {name} {spread(rates, '.1f')} GB/s"
    return Table(
        ["", *columns, "first call, s"],
        [
            decode_row(entry, [*columns, "first call, s"], part["new_tokens"])
            for entry in part["contenders"]
        ],
        caption,
    )


def decode_row(entry: Result, columns: Sequence[str], new_tokens: int) -> list[str]:
    """A contender's cells, or why it has none."""
    if "failed" in entry:
        return [
            entry["name"],
            f"failed: {entry['failed']}".replace("|", "/"),
            *[""] * (len(columns) - 1),
        ]
    cells = {
        "tokens/s": lambda: spread(entry["tokens_per_second"], ",.1f"),
        "share of the bandwidth": lambda: f"{entry['share_of_bandwidth']:.1%}",
        "µs a token": lambda: spread(entry["call_seconds"], ",.0f", 1e6 / new_tokens),
        "of which beyond reading": lambda: f"{1e6 * entry['beyond_reading_seconds']:,.0f}",
        "ms": lambda: spread(entry["call_seconds"], ",.1f", 1000),
        "first call, s": lambda: (
            f"{entry['first_call_seconds']:.1f}" if "first_call_seconds" in entry else "–"
        ),
        "seconds": lambda: spread(entry["seconds"], ".2f"),
    }
    return [entry["name"], *(cells[column]() for column in columns)]


def kill_and_resume_tables(result: Result) -> list[Table]:
    header = ("run", "runs", "kills", "before a checkpoint", "while one was written")
    rows = [
        [
            name,
            str(counts["runs"]),
            str(counts["kills"]),
            str(counts["kills_before_a_checkpoint"]),
            str(counts["kills_while_writing"]),
            f"{counts['compared']:,} ({counts['bytes'] / 1e6:.1f} MB)",
            str(len(counts["differing"])),
        ]
        for name, counts in result["results"].items()
    ]
    return [Table([*header, "tensors and records compared", "differing"], rows)]


def memory_tables(result: Result) -> list[Table]:
    """A row for each contender, two columns for each precision."""
    results, shape = result["results"], result["shape"]
    precisions = list(dict.fromkeys(entry["precision"] for entry in results))
    found = {(entry["contender"], entry["precision"]): entry for entry in results}
    header = [""]
    for precision in precisions:
        header += [f"{precision}: peak GB", "seconds a step"]
    rows = []
    for name in dict.fromkeys(entry["contender"] for entry in results):
        rows.append([name])
        for precision in precisions:
            entry = found[name, precision]
            rows[-1] += [spread(entry["peak_gb"], ".2f"), spread(entry["step_seconds"], ".2f")]
    libraries = {entry["library"]: f"{entry['library_gb']['median']:.2f}" for entry in results}
    parameters = results[0]["parameters"]
    return [
        Table(
            header,
            rows,
            f"{parameters:,} parameters: {shape['num_layers']} layers, width {shape['embed_dim']}, "
            f"vocabulary {shape['vocab_size']:,}, T {shape['seq_len']}, batch "
            f"{shape['batch_size']}; {16 * parameters / 1e9:.2f} GB of it are the weights, their "
            "gradients and what AdamW keeps",
        ),
        Table(["of which importing takes, not on a GPU", "GB"], list(libraries.items())),
    ]


def prepare_tables(result: Result) -> list[Table]:
    def row(name: str, corpus: Result, figures: Result) -> list[str]:
        return [
            name,
            f"{corpus['bytes'] / 1e6:,.0f}",
            spread(figures["seconds"], ".1f"),
            f"{figures['mb_per_second']['median']:.1f}",
            f"{figures['peak_mb']['median']:,.0f}",
        ]

    corpus = result["preparing"]["corpus"]
    rows = [
        row(name, corpus, figures) for name, figures in result["preparing"]["contenders"].items()
    ]
    rows += [
        row(f"gptlab, from {suffix}", corpus, figures)
        for suffix, figures in result.get("rows", {}).items()
    ]
    if "large" in result:
        rows.append(row("gptlab, more text", result["large"]["corpus"], result["large"]))
    header = ["", "MB of text", "seconds", "MB/s", f"peak MB ({result['memory']})"]
    tables = [Table(header, rows, "Files to tokens on disk, or encoding alone into memory")]
    if "batches" in result:
        tables.append(
            Table(
                ["model, windows", "ms of a step", "ms of a batch", "% of a step", "% waited"],
                [
                    [
                        f"{entry['model']}, {entry['windows_of']}",
                        f"{1000 * entry['step_seconds']:,.0f}",
                        f"{1000 * entry['batch_seconds']:.2f}",
                        f"{entry['batch_percent']:.3f}",
                        f"{entry['waited_percent']:.4f}",
                    ]
                    for entry in result["batches"]["results"]
                ],
                "Making a batch, beside a training step",
            )
        )
    return tables


def reference_curves_tables(result: Result) -> list[Table]:
    titles = {"rounding": "The same run, computed in another way", "fault": "Another run"}
    header = ["run", "deviations", "at", "nats from seed 0's curve", "in the band"]
    return [
        Table(
            header,
            [
                [
                    name,
                    f"{run['deviations']:.1f}",
                    f"{run['split']} {run['step']}",
                    f"{run['from_seed_0']:.4f}",
                    "yes" if run["in_band"] else "no",
                ]
                for name, run in result["runs"].items()
                if run["kind"] == kind
            ],
            title,
        )
        for kind, title in titles.items()
    ]


def startup_tables(result: Result) -> list[Table]:
    tables = []
    if "imports" in result:
        torch_seconds = result["imports"]["torch_seconds"]
        tables.append(
            Table(
                ["milliseconds", "import", "then its model", "then its training"],
                [
                    [
                        entry["library"],
                        spread(entry["import_seconds"], ".1f", 1000),
                        *(
                            f"`{name['name']}` {spread(name['seconds'], ',.0f', 1000)}"
                            for name in entry["names"]
                        ),
                    ]
                    for entry in result["imports"]["libraries"]
                ],
                f"After `import torch`, itself {spread(torch_seconds, '.2f')} s",
            )
        )
    if "help" in result:
        row = ["`gptlab-train --help`", spread(result["help"], ".2f")]
        tables.append(Table(["command", "seconds"], [row]))
    if "first_step" in result:
        tables.append(
            Table(
                ["`gptlab-train`", "compile caches", "seconds to its plan", "to its first step"],
                [
                    [
                        f"`--compile {entry['compile']}`"
                        + (", the default" if entry["compile"] == "auto" else ""),
                        entry["caches"] or "–",
                        spread(entry["plan_seconds"], ".1f"),
                        spread(entry["first_step_seconds"], ".1f"),
                    ]
                    for entry in result["first_step"]
                ],
            )
        )
    return tables


def time_to_loss_tables(result: Result) -> list[Table]:
    return [flat_table(result["rows"])]


def training_overhead_tables(result: Result) -> list[Table]:
    total, calls = result["seconds"]["run"], result["calls"]
    return [
        Table(
            ["part", "times", "seconds", "share of the run"],
            [
                [name, str(calls.get(name, "")), f"{share * total:,.2f}", f"{share:.2%}"]
                for name, share in result["shares"].items()
            ],
            ", ".join(f"{name} {value:,}" for name, value in result["shape"].items()),
        )
    ]


def train_throughput_tables(result: Result) -> list[Table]:
    tables = []
    for shape in result["shapes"]:
        shares = shape.get("share_of_peak") or {}
        tables.append(
            Table(
                ["", "tokens/s", *(["share of the peak"] if shares else [])],
                [
                    [
                        name,
                        spread(speeds, ",.0f"),
                        *([f"{shares[name]:.1%}" if name in shares else ""] if shares else []),
                    ]
                    for name, speeds in shape["tokens_per_second"].items()
                ],
                shape["name"],
            )
        )
    return tables


def growth_tables(result: Result) -> list[Table]:
    return [
        Table(
            ["", "MFLOP a token", "tokens/s", "GB of memory"],
            [
                [
                    f"{row['changed']} {row['value']:,}",
                    figure(round(row["flops_per_token"] / 1e6, 1)),
                    spread(row["tokens_per_second"], ",.0f"),
                    f"{row['resident_bytes'] / 1e9:.2f}",
                ]
                for row in result["rows"]
            ],
            "6 layers of width 384, T 256, vocabulary 65, one of them changed; 4,096 tokens a step",
        )
    ]


def generic_tables(result: Result) -> list[Table]:
    """All medians in a result, by the way that leads to them."""
    rows = [[" · ".join(path), spread(figures, ",.4g")] for path, figures in medians(result)]
    return [Table(["", "median (least–greatest)"], rows)]


def medians(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Result]]:
    if isinstance(part, dict) and "median" in part:
        yield path, part
    elif isinstance(part, dict | list):
        entries = part.items() if isinstance(part, dict) else enumerate(part, start=1)
        for name, below in entries:
            yield from medians(below, (*path, str(name)))


def flat_table(rows: Sequence[Result]) -> Table:
    """A table of rows that are dictionaries; their names are the columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    header = [name.replace("_", " ") for name in names]
    return Table(header, [[figure(row.get(name)) for name in names] for row in rows])


def figure(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict) and "median" in value:
        return spread(value, ",.4g")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


THROUGHPUT = Benchmark(
    "Speed of training", "benchmarks/train_throughput.py --nanogpt FOLDER", train_throughput_tables
)
BENCHMARKS: Mapping[str, Benchmark] = {
    "train_throughput": THROUGHPUT,
    "growth": Benchmark(
        "How the cost grows", "benchmarks/train_throughput.py --growth", growth_tables
    ),
    "time_to_loss": Benchmark(
        "Time to a loss", "benchmarks/time_to_loss.py TEXT --nanogpt FOLDER", time_to_loss_tables
    ),
    "ablation": Benchmark(
        "What each part brings", "benchmarks/time_to_loss.py TEXT --ablation", time_to_loss_tables
    ),
    "decode": Benchmark("Generation", "benchmarks/decode.py --llama_bench PROGRAM", decode_tables),
    "transformer": Benchmark(
        "The encoder-decoder Transformer", "benchmarks/transformer.py", transformer_tables
    ),
    "generation_equality": Benchmark(
        "Generation in every mode", "benchmarks/generation_equality.py", generation_equality_tables
    ),
    "parity": Benchmark("Models of other tools", "benchmarks/parity.py", parity_tables),
    "export_check": Benchmark(
        "Exported models, computed by others",
        "benchmarks/export_check.py --llama_cpp FOLDER --text TEXT",
        export_check_tables,
    ),
    "toy_pairs": Benchmark(
        "Numbers and dates, by the default Transformer",
        "benchmarks/toy_pairs.py",
        toy_pairs_tables,
    ),
    "memory": Benchmark(
        "Memory of training", "benchmarks/memory.py --nanogpt FOLDER", memory_tables
    ),
    "finetune": Benchmark("Fine-tuning", "benchmarks/finetune.py", finetune_tables),
    "loading": Benchmark("Loading a model", "benchmarks/loading.py", loading_tables),
    "startup": Benchmark("Start-up", "benchmarks/startup.py", startup_tables),
    "training_overhead": Benchmark(
        "What checkpoints, metrics and evaluations cost",
        "benchmarks/training_overhead.py",
        training_overhead_tables,
    ),
    "kill_and_resume": Benchmark(
        "Killed and resumed", "benchmarks/kill_and_resume.py --runs 4", kill_and_resume_tables
    ),
    "batch_splits": Benchmark(
        "One batch in many splits", "benchmarks/batch_splits.py", batch_splits_tables
    ),
    "reference_curves": Benchmark(
        "What the check of a machine lets pass, and what it catches",
        "benchmarks/reference_curves.py --faults",
        reference_curves_tables,
    ),
    "bpe_training": Benchmark(
        "Training a tokenizer",
        "benchmarks/bpe_training.py --setting 20M:8192:3 100M:32768:2 1G:50257:1",
        bpe_training_tables,
    ),
    "bpe_encoding": Benchmark(
        "Encoding text", "benchmarks/bpe_encoding.py --rounds 2", bpe_encoding_tables
    ),
    "prepare": Benchmark("Preparing a corpus", "benchmarks/prepare.py", prepare_tables),
}


def show(result: Result) -> None:
    """Print the tables of a result."""
    for table in BENCHMARKS[result["benchmark"]].tables(result):
        print(f"\n{table}")
    print()


def publish(name: str, result: Result) -> None:
    """Print the tables of a result, and write it to benchmarks/results/NAME.json."""
    show(result)
    write_result(name, result)


def page(folder: Path) -> str:
    """The page of the results in `folder`."""
    files = sorted(folder.glob("*.json"))
    results = [json.loads(file.read_text()) for file in files]
    order = list(BENCHMARKS)

    def place(result: Result) -> tuple[int, str]:
        name = result["benchmark"]
        return order.index(name) if name in order else len(order), name

    groups = groupby(sorted(results, key=place), key=lambda result: result["benchmark"])
    return "\n".join([PREFACE, *(section(name, list(group)) for name, group in groups)])


def section(name: str, results: Sequence[Result]) -> str:
    """The results of one benchmark, on one machine or on several."""
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        title = name.replace("_", " ").capitalize()
        benchmark = Benchmark(title, f"benchmarks/{name}.py", generic_tables)
    parts = [f"## {benchmark.title}", f"`python {benchmark.command}`"]
    for result in results:
        parts += [f"On {where(result)}:", *map(str, benchmark.tables(result))]
    return "\n\n".join(parts) + "\n"


def where(result: Result) -> str:
    """The machine that a result is from."""
    machine = result.get("machine", {})
    packages = {"torch": result.get("torch"), **machine.get("packages", {})}
    device, cores = result.get("device", "cpu"), machine.get("cores", result.get("threads"))
    parts = ["" if device == "cpu" else device, machine.get("processor", "")]
    parts += [f"{cores} core{'s' * (cores > 1)}"] if cores else []
    parts += [f"Python {machine['python']}"] if "python" in machine else []
    parts += [f"{package} {version}" for package, version in packages.items() if version]
    return ", ".join(part for part in parts if part)


def main() -> None:
    PAGE.write_text(page(HERE / "results"))
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
