"""Speed of encoding text by a BPE tokenizer: gptlab beside its peers, in one go.

    python benchmarks/bpe_encoding.py [--vocab_size 8192 32768] [--corpus FILE] [--cores 2]

gptlab trains a tokenizer on Python source. Every contender then encodes the same documents by the
same merges and the same split pattern: that source, file by file, made-up text in twelve scripts,
and a text of your own in documents of about 4,000 characters. tiktoken takes the merges as ranks,
Hugging Face's tokenizers reads the saved folder, and rustbpe, which can't read merges, learns them
anew from the same source before its clock starts.

Each run is a process of its own; they take turns, round by round, and the median round counts. A
run ends when the ids of all documents are there for Python: as lists, or as arrays where the call
makes arrays. Importing, loading and reading the documents are not timed, except for gptlab's
`encode_files`, which reads them itself. No cache is warm. The ids of every run are held to be the
same. The peers come with the extra `bench`. The result is printed and written to
benchmarks/results/bpe_encoding-cpu.json.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bpe_encoding_task import CONTENDERS
from corpora import (
    Document,
    byte_count,
    file_documents,
    first_bytes,
    multi_script_documents,
    python_documents,
)
from measure import (
    available_cores,
    machine,
    print_table,
    run_task,
    summary,
    write_result,
)

TASK = Path(__file__).with_name("bpe_encoding_task.py")


def write_documents(folder: Path, documents: Iterable[Document]) -> Path:
    folder.mkdir(parents=True)
    for number, (_, data) in enumerate(documents):
        (folder / f"{number:06}.txt").write_bytes(data)
    return folder


def document_sets(arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Write the documents of each kind of text to a folder of its own."""
    sources = {
        "Python source": (python_documents(), arguments.size),
        "twelve scripts": (multi_script_documents(seed=0), arguments.scripts_size),
    }
    if arguments.corpus:
        sources["own text"] = (file_documents(arguments.corpus), arguments.size)
    return {
        name: write_documents(folder / name.replace(" ", "_"), first_bytes(documents, size))
        for name, (documents, size) in sources.items()
    }


def measure(documents: Path, task: dict[str, Any], rounds: int, cores: int) -> dict[str, Any]:
    """Let all contenders encode these documents in turns, and hold their ids to be the same."""
    entrants = [
        (name, count)
        for count in dict.fromkeys((1, cores))
        for name, contender in CONTENDERS.items()
        if (count == 1 and contender.on_one_core) or (count > 1 and contender.on_all_cores)
    ]
    seconds: dict[tuple[str, int], list[float]] = {entrant: [] for entrant in entrants}
    expected: dict[str, Any] = {}
    for _ in range(rounds):
        for name, count in entrants:
            run = run_task(
                TASK, {**task, "contender": name, "documents": str(documents)}, cores=count
            )
            seconds[name, count].append(run.result.pop("seconds"))
            expected = expected or run.result
            if run.result != expected:
                raise AssertionError(f"{name} gives {run.result}, {entrants[0][0]} {expected}")
    size = sum(file.stat().st_size for file in documents.iterdir())
    return {
        "bytes": size,
        **expected,
        "equal_ids": True,
        "contenders": [
            {
                "name": name,
                "cores": count,
                "seconds": summary(times),
                "mb_per_second": summary(size / 1e6 / time for time in times),
            }
            for (name, count), times in seconds.items()
        ],
    }


def rows(results: Sequence[dict[str, Any]], cores: int) -> Iterator[list[str]]:
    """For each contender on as many cores, its MB/s in each result."""
    for column in zip(*(result["contenders"] for result in results), strict=True):
        if column[0]["cores"] == cores:
            yield [
                column[0]["name"],
                *(f"{entry['mb_per_second']['median']:.1f}" for entry in column),
            ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vocab_size", nargs="+", type=int, default=[8192])
    parser.add_argument("--size", type=byte_count, default=20_000_000, help="bytes of source")
    parser.add_argument(
        "--scripts_size", type=byte_count, default=5_000_000, help="bytes in twelve scripts"
    )
    parser.add_argument("--corpus", type=Path, help="a text of your own, of which --size is taken")
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, help="folder for temporary files")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    results = []
    with tempfile.TemporaryDirectory(dir=arguments.workspace) as folder:
        sets = document_sets(arguments, Path(folder))
        for vocab_size in arguments.vocab_size:
            task = {
                "source": str(sets["Python source"]),
                "tokenizer": str(Path(folder, f"tokenizer-{vocab_size}")),
                "vocab_size": vocab_size,
            }
            run_task(TASK, task, cores=arguments.cores)
            for name, documents in sets.items():
                result = measure(documents, task, arguments.rounds, arguments.cores)
                results.append({"text": name, "vocab_size": vocab_size, **result})
    for cores in dict.fromkeys((1, arguments.cores)):
        columns = [f"{result['text']}, {result['vocab_size']:,}" for result in results]
        print_table([f"MB/s, cores: {cores}", *columns], rows(results, cores))
    packages = ["gptlab", "tiktoken", "tokenizers", "rustbpe", "numpy", "regex"]
    result = {
        "benchmark": "bpe_encoding",
        "pattern": "gpt4",
        "rounds": arguments.rounds,
        "machine": machine(packages, cores=arguments.cores),
        "results": results,
    }
    write_result("bpe_encoding-cpu", result)


if __name__ == "__main__":
    main()
