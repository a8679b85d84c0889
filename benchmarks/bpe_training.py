"""Time and memory of training a BPE tokenizer: gptlab beside its peers, in one go.

    python benchmarks/bpe_training.py [--setting 20M:8192 100M:32768] [--corpus FILE] [--cores 2]

Every contender learns the same number of merges from the same file by the same split pattern, on
the same cores. gptlab is given the file's path. rustbpe and Hugging Face's tokenizers are given an
iterator over pieces of the file that are read as they are asked for, cut where no chunk is, so
that all count the same chunks. (Hugging Face's own way of reading a file takes it line by line,
which cuts chunks of several line ends, and so would be another task.) Each run is a process of its
own; they take turns, round by round, and the median round counts. The seconds are those of the
training call, which reads the file; imports are left out, but are in the seconds of the process.
Memory is summed over the process and its children.

Before, in runs that are not timed, gptlab's merges are held to be exactly those of rustbpe, and,
with ties broken in their manner, exactly those of Hugging Face's tokenizers. The peers come with
the extra `bench`. The result is printed and written to benchmarks/results/bpe_training-cpu.json.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpora import (
    Corpus,
    byte_count,
    file_documents,
    first_bytes,
    python_documents,
    write_corpus,
)
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

TASK = Path(__file__).with_name("bpe_training_task.py")
CONTENDERS = ("gptlab", "rustbpe", "tokenizers")
CHECKS = (("gptlab", "rustbpe"), ("gptlab, ties as tokenizers", "tokenizers"))


def check_merges(task: dict[str, Any], cores: int, folder: Path) -> dict[str, int]:
    """Hold gptlab's merges to those of each peer, and count the equal ones."""
    equal = {}
    for names in CHECKS:
        merges = []
        for name in names:
            file = folder / "merges.json"
            run_task(TASK, {**task, "trainer": name, "merges_file": str(file)}, cores=cores)
            merges.append(json.loads(file.read_text()))
        same = sum(ours == theirs for ours, theirs in zip(*merges, strict=False))
        if merges[0] != merges[1]:
            lengths = " and ".join(str(len(learned)) for learned in merges)
            raise AssertionError(f"{' and '.join(names)} agree on {same} merges of {lengths}")
        equal[names[1]] = same
    return equal


def measure(corpus: Corpus, vocab_size: int, rounds: int, cores: int) -> dict[str, Any]:
    """Check the contenders against each other, and then let them take turns."""
    task = {"corpus": str(corpus.path), "vocab_size": vocab_size}
    equal_merges = check_merges(task, cores, corpus.path.parent)
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            run = run_task(TASK, {**task, "trainer": name}, cores=cores)
            if run.result["merges"] != equal_merges["rustbpe"]:
                raise AssertionError(f"{name} learned {run.result['merges']} merges")
            runs[name].append(run)
    contenders = {name: summarized(runs[name], corpus) for name in CONTENDERS}
    own = contenders["gptlab"]
    return {
        "corpus": corpus.description(),
        "vocab_size": vocab_size,
        "rounds": rounds,
        "merges": equal_merges["rustbpe"],
        "merges_equal_to_gptlab": equal_merges,
        "contenders": contenders,
        "times_gptlab": {
            name: {key: round(peer[key]["median"] / own[key]["median"], 3) for key in own}
            for name, peer in contenders.items()
        },
    }


def summarized(runs: list[Run], corpus: Corpus) -> dict[str, dict[str, float]]:
    megabytes = corpus.size / 1e6
    return {
        "seconds": summary(run.result["seconds"] for run in runs),
        "seconds_per_mb": summary(run.result["seconds"] / megabytes for run in runs),
        "process_seconds": summary(run.process_seconds for run in runs),
        "peak_mb": summary(run.peak_bytes / 1e6 for run in runs),
        "largest_process_mb": summary(run.largest_process_bytes / 1e6 for run in runs),
    }


def rows(setting: dict[str, Any]) -> Iterator[list[str]]:
    size = setting["corpus"]["bytes"] / 1e6
    for name, values in setting["contenders"].items():
        seconds = values["seconds"]
        ratios = setting["times_gptlab"][name]
        yield [
            name,
            f"{size:,.1f}",
            f"{setting['merges']:,}",
            f"{seconds['median']:.2f} ({seconds['min']:.2f}–{seconds['max']:.2f})",
            f"{ratios['seconds']:.2f}",
            f"{values['seconds_per_mb']['median']:.4f}",
            f"{values['process_seconds']['median']:.2f}",
            f"{values['peak_mb']['median']:,.0f}",
            f"{ratios['peak_mb']:.2f}",
            f"{values['largest_process_mb']['median']:,.0f}",
        ]


def parse_setting(text: str) -> tuple[int, int, int | None]:
    size, vocab_size, *rounds = text.split(":")
    return byte_count(size), int(vocab_size), int(rounds[0]) if rounds else None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--setting",
        nargs="+",
        type=parse_setting,
        default=[(20_000_000, 8192, None), (100_000_000, 32768, None)],
        metavar="SIZE:VOCAB_SIZE[:ROUNDS]",
        help="bytes of text and gptlab's vocab_size, as in 20M:8192, or 1G:50257:1 for one round",
    )
    parser.add_argument("--corpus", type=Path, help="a text to take the bytes from, not source")
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", type=Path, help="folder for temporary files")
    return parser.parse_args()


def report(settings: list[dict[str, Any]], cores: int) -> None:
    """Print and write what has been measured so far."""
    print_table(
        [
            "",
            "MB of text",
            "merges",
            "seconds (least–most)",
            "time, gptlab = 1",
            "seconds per MB",
            "seconds of process",
            f"peak MB ({memory_kind()})",
            "memory, gptlab = 1",
            "MB of largest process (RSS)",
        ],
        (row for setting in settings for row in rows(setting)),
    )
    packages = ["gptlab", "rustbpe", "tokenizers", "numpy", "regex"]
    result = {
        "benchmark": "bpe_training",
        "pattern": "gpt4",
        "memory": memory_kind(),
        "machine": machine(packages, cores=cores),
        "settings": settings,
    }
    write_result("bpe_training-cpu", result)


def main() -> None:
    arguments = parse_arguments()
    settings = []
    with tempfile.TemporaryDirectory(dir=arguments.workspace) as folder:
        for size, vocab_size, rounds in arguments.setting:
            documents = file_documents(arguments.corpus) if arguments.corpus else python_documents()
            corpus = write_corpus(Path(folder, "corpus.txt"), first_bytes(documents, size))
            settings.append(
                measure(corpus, vocab_size, rounds or arguments.rounds, arguments.cores)
            )
            report(settings, arguments.cores)


if __name__ == "__main__":
    main()
