"""Files to tokens on disk, in time and memory, and batches of them: gptlab beside its peers.

    python benchmarks/prepare.py [--size 100M] [--large 1G] [--rounds 3] [--skip large batches]

The texts are Python source, one document a file, in folders within folders. gptlab trains a
tokenizer on the first of them, which every contender uses with the same merges and the same split
pattern; the checksums of all their tokens are held to be the same.

Preparing: gptlab makes a dataset of the folder. `datasets` loads the same files, encodes them by
Hugging Face's tokenizers in as many processes, and writes a flat file of uint16, as nanoGPT's
prepare.py does, with caches that are empty each time. Beside them stands encoding alone, of texts
that are in memory already, into memory: what preparing could reach if the rest cost nothing. Each
run is a process of its own; they take turns, round by round, and the median round counts. Imports
are not timed. gptlab alone is then given the same texts as JSON lines, plain and compressed.

Memory: the sum over the process and its children at its highest, for --size and for --large.

Batches: for two models, the seconds of making a batch, at random steps, beside those of a training
step, which also says how long it waited for its batch while others were made ahead.

The peers come with the extra `bench`. The result is printed and written to
benchmarks/results/prepare-cpu.json.
"""

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpora import Corpus, byte_count, first_bytes, python_documents, write_tree
from measure import (
    Run,
    available_cores,
    machine,
    memory_kind,
    print_table,
    run_task,
    summary,
    write_result,
)

TASK = Path(__file__).with_name("prepare_task.py")
BATCHES_TASK = Path(__file__).with_name("prepare_batches_task.py")
CONTENDERS = ("gptlab", "datasets", "gptlab, encoding alone", "tiktoken, encoding alone")
SKIPPABLE = ("datasets", "rows", "large", "batches")


class Bench:
    """Runs contenders on a tokenizer, each in an empty folder that is gone afterwards."""

    def __init__(self, corpus: Corpus, *, vocab_size: int, arguments: argparse.Namespace) -> None:
        self.cores = arguments.cores
        self._workspace = corpus.path.parent
        self._expected: dict[Path, dict[str, Any]] = {}
        files = list(first_files(corpus.path, arguments.tokenizer_size))
        self.tokenizer = self._workspace / f"tokenizer-{vocab_size}"
        task = {"files": files, "vocab_size": vocab_size, "tokenizer": str(self.tokenizer)}
        self._eos_id = run_task(TASK, task, cores=self.cores).result["eos_id"]

    def run(self, contender: str, source: Path, *, texts: Path) -> Run:
        """Prepare `source`, which holds the documents of the folder `texts`."""
        with tempfile.TemporaryDirectory(dir=self._workspace) as folder:
            task = {
                "contender": contender,
                "source": str(source),
                "tokenizer": str(self.tokenizer),
                "eos_id": self._eos_id,
                "folder": folder,
            }
            run = run_task(TASK, task, cores=self.cores)
        seconds = run.result.pop("seconds")
        expected = self._expected.setdefault(texts, dict(run.result))
        if run.result != expected:
            raise AssertionError(f"{contender} gives {run.result}, others {expected}")
        run.result["seconds"] = seconds
        print(f"{contender}: {source.name}, {seconds:.1f} s", flush=True)
        return run


def first_files(folder: Path, size: int) -> Iterator[str]:
    """Files that together have at least `size` bytes, or all."""
    for file in sorted(folder.rglob("*.py")):
        if size <= 0:
            return
        yield str(file)
        size -= file.stat().st_size


def preparing(bench: Bench, corpus: Corpus, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the contenders take turns at the folder of files."""
    rounds = dict.fromkeys(CONTENDERS, arguments.rounds)
    rounds["datasets"] = 0 if "datasets" in arguments.skip else arguments.datasets_rounds
    runs: dict[str, list[Run]] = {name: [] for name, count in rounds.items() if count}
    for number in range(max(rounds.values())):
        for name in runs:
            if number < rounds[name]:
                runs[name].append(bench.run(name, corpus.path, texts=corpus.path))
    contenders = {name: summarized(taken, corpus) for name, taken in runs.items()}
    own = contenders["gptlab"]["mb_per_second"]["median"]
    return {
        "corpus": corpus.description(),
        "documents": runs["gptlab"][0].result["documents"],
        "tokens": runs["gptlab"][0].result["tokens"],
        "equal_tokens": True,
        "contenders": contenders,
        "speed_of_gptlab": {
            name: round(own / figures["mb_per_second"]["median"], 3)
            for name, figures in contenders.items()
        },
    }


def rows(bench: Bench, corpus: Corpus) -> dict[str, Any]:
    """Let gptlab take the same documents from JSON lines."""
    results = {}
    for suffix in (".jsonl", ".jsonl.gz"):
        file = corpus.path.with_suffix(suffix)
        write_json_lines(file, corpus.path)
        run = bench.run("gptlab", file, texts=corpus.path)
        results[suffix] = {"stored_bytes": file.stat().st_size, **summarized([run], corpus)}
        file.unlink()
    return results


def write_json_lines(file: Path, folder: Path) -> None:
    with gzip.open(file, "wt") if file.suffix == ".gz" else file.open("w") as stream:
        for text in sorted(folder.rglob("*.py")):
            stream.write(json.dumps({"text": text.read_bytes().decode()}) + "\n")


def large(bench: Bench, size: int, workspace: Path) -> dict[str, Any]:
    """Let gptlab prepare a large folder once."""
    with tempfile.TemporaryDirectory(dir=workspace) as folder:
        corpus = write_tree(Path(folder, "large"), first_bytes(python_documents(), size))
        run = bench.run("gptlab", corpus.path, texts=corpus.path)
    return {
        "corpus": corpus.description(),
        "documents": run.result["documents"],
        "tokens": run.result["tokens"],
        **summarized([run], corpus),
    }


def batches(corpus: Corpus, arguments: argparse.Namespace) -> dict[str, Any]:
    """What batches cost beside the steps of two models."""
    bench = Bench(corpus, vocab_size=arguments.batch_vocab_size, arguments=arguments)
    with tempfile.TemporaryDirectory(dir=corpus.path.parent) as folder:
        task = {
            "source": str(corpus.path),
            "tokenizer": str(bench.tokenizer),
            "folder": folder,
            "steps": arguments.steps,
        }
        return run_task(BATCHES_TASK, task, cores=bench.cores).result


def summarized(runs: list[Run], corpus: Corpus) -> dict[str, dict[str, float]]:
    megabytes = corpus.size / 1e6
    return {
        "seconds": summary(run.result["seconds"] for run in runs),
        "mb_per_second": summary(megabytes / run.result["seconds"] for run in runs),
        "process_seconds": summary(run.process_seconds for run in runs),
        "peak_mb": summary(run.peak_bytes / 1e6 for run in runs),
    }


def report(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print and write what has been measured."""
    entries = {
        name: (results["preparing"]["corpus"], figures)
        for name, figures in results["preparing"]["contenders"].items()
    }
    for suffix, figures in results.get("rows", {}).items():
        entries[f"gptlab, {suffix}"] = (results["preparing"]["corpus"], figures)
    if "large" in results:
        entries["gptlab, --large"] = (results["large"]["corpus"], results["large"])
    own = results["preparing"]["contenders"]["gptlab"]
    print_table(
        [
            "",
            "MB of text",
            "seconds (least–most)",
            "MB/s",
            "× gptlab",
            f"peak MB ({memory_kind()})",
        ],
        (table_row(name, *entry, own) for name, entry in entries.items()),
    )
    if "batches" in results:
        print_table(
            ["", "ms of a step", "ms of a batch", "% of a step", "% waited"],
            (
                [
                    f"{row['model']}, {row['windows_of']}",
                    f"{1000 * row['step_seconds']:,.0f}",
                    f"{1000 * row['batch_seconds']:.2f}",
                    f"{row['batch_percent']:.3f}",
                    f"{row['waited_percent']:.3f}",
                ]
                for row in results["batches"]["results"]
            ),
        )
    packages = ["gptlab", "datasets", "tokenizers", "tiktoken", "numpy", "regex", "torch"]
    result = {
        "benchmark": "prepare",
        "pattern": "gpt4",
        "vocab_size": arguments.vocab_size,
        "tokenizer_bytes": arguments.tokenizer_size,
        "rounds": arguments.rounds,
        "datasets_rounds": arguments.datasets_rounds,
        "processes": arguments.cores,
        "memory": memory_kind(),
        "machine": machine(packages, cores=arguments.cores),
        **results,
    }
    write_result("prepare-cpu", result)


def table_row(
    name: str, corpus: dict[str, Any], figures: dict[str, Any], own: dict[str, Any]
) -> list[str]:
    seconds, speed = figures["seconds"], figures["mb_per_second"]["median"]
    return [
        name,
        f"{corpus['bytes'] / 1e6:,.1f}",
        f"{seconds['median']:.1f} ({seconds['min']:.1f}–{seconds['max']:.1f})",
        f"{speed:.2f}",
        f"{speed / own['mb_per_second']['median']:.2f}",
        f"{figures['peak_mb']['median']:,.0f}",
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=byte_count, default=100_000_000, help="bytes of source")
    parser.add_argument("--large", type=byte_count, default=10**9, help="bytes, to see the memory")
    parser.add_argument("--vocab_size", type=int, default=32768)
    parser.add_argument(
        "--tokenizer_size", type=byte_count, default=20_000_000, help="bytes to train it on"
    )
    parser.add_argument("--batch_vocab_size", type=int, default=8192, help="of the models' steps")
    parser.add_argument(
        "--steps", type=int, default=5, help="training steps for each kind of batch"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datasets_rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--skip", nargs="+", choices=SKIPPABLE, default=[])
    parser.add_argument("--workspace", type=Path, help="folder for temporary files")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.workspace) as folder:
        workspace = Path(folder)
        corpus = write_tree(workspace / "files", first_bytes(python_documents(), arguments.size))
        bench = Bench(corpus, vocab_size=arguments.vocab_size, arguments=arguments)
        results = {"preparing": preparing(bench, corpus, arguments)}
        parts = {
            "rows": lambda: rows(bench, corpus),
            "large": lambda: large(bench, arguments.large, workspace),
            "batches": lambda: batches(corpus, arguments),
        }
        report(results, arguments)
        for name in [name for name in parts if name not in arguments.skip]:
            results[name] = parts[name]()
            report(results, arguments)


if __name__ == "__main__":
    main()
