"""Time and memory of loading a model: gptlab beside Hugging Face transformers, in one go.

    python benchmarks/loading.py [--quick] [--rounds 5]

A GPT-2 of 124M parameters with random weights lies in a folder of Hugging Face's libraries, once in
float32 and once in bfloat16, and as gptlab saves it. Each load happens in a process of its own, on
the CPU, in which a tiny model of the same kind was loaded before, so that no imports count; the
loads take turns, and the median counts. The files were read just before, so that they come from
memory and not from a disk. `gptlab.load` gives the model and its tokenizer, and so transformers
loads both; each also loads the model alone.

Told are the seconds of the load, the seconds until each page of the weights was touched as well (a
mapped file is read only then), and the most resident memory of all this above that before it, in
sizes of the weights' file: a model that is held once and read without a copy takes 1. Pages of a
mapped file count as memory. gptlab's checkpoints have checksums, which it looks at.

transformers comes with the extra `bench`. The result is printed and written to
benchmarks/results/loading-cpu.json; --quick takes a tiny model and one round, and is printed alone.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import Run, available_cores, machine, run_task, summary
from pretrained import GPT2, TINY, make_tokenizer, source_text, write_gpt2
from report import publish, show

import gptlab

TASK = Path(__file__).with_name("loading_task.py")
WEIGHTS = "model.safetensors"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
HUGGING_FACE, CHECKPOINT = "hugging_face", "checkpoint"


@dataclass(frozen=True)
class Contender:
    """Who loads, and from what."""

    name: str
    library: str
    layout: str = HUGGING_FACE


CONTENDERS = (
    Contender("gptlab, folder of Hugging Face", "gptlab"),
    Contender("gptlab, its checkpoint", "gptlab", CHECKPOINT),
    Contender("gptlab, model alone", "gptlab, model alone"),
    Contender("transformers", "transformers"),
    Contender("transformers, model alone", "transformers, model alone"),
)


def write_folders(folder: Path, shape: dict[str, int], text: str) -> dict[tuple[str, str], Path]:
    """A model in each precision and each layout, by these."""
    tokenizer = make_tokenizer(text, shape["vocab_size"])
    folders = {}
    for precision, dtype in DTYPES.items():
        theirs, ours = (folder / precision / layout for layout in (HUGGING_FACE, CHECKPOINT))
        write_gpt2(theirs, shape, tokenizer, dtype=dtype)
        model, _ = gptlab.load(theirs)
        gptlab.save(ours, model, tokenizer)
        folders |= {(precision, HUGGING_FACE): theirs, (precision, CHECKPOINT): ours}
    return folders


def measure(
    folders: dict[tuple[str, str], Path],
    warm_up: dict[tuple[str, str], Path],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Let all contenders take turns with each file."""
    runs: dict[tuple[str, Contender], list[Run]] = {
        (precision, contender): [] for precision in DTYPES for contender in CONTENDERS
    }
    for _ in range(options.rounds):
        for (precision, contender), taken in runs.items():
            place = precision, contender.layout
            (folders[place] / WEIGHTS).read_bytes()
            task = {
                "library": contender.library,
                "folder": str(folders[place]),
                "warm_up": str(warm_up[place]),
            }
            taken.append(run_task(TASK, task, cores=available_cores()))
            seconds = taken[-1].result["seconds"]
            print(f"{precision}, {contender.name}: {seconds:.2f} s", flush=True)
    require_same_weights(runs)
    return [
        figures(precision, contender, taken, (folders[precision, contender.layout] / WEIGHTS))
        for (precision, contender), taken in runs.items()
    ]


def require_same_weights(runs: dict[tuple[str, Contender], list[Run]]) -> None:
    """Refuse figures of who did not load the weights as they are in the file."""
    for precision, dtype in DTYPES.items():
        for (of, contender), taken in runs.items():
            if of == precision and any(run.result["dtypes"] != [str(dtype)] for run in taken):
                found = taken[0].result["dtypes"]
                raise SystemExit(f"{contender.name} made {found} of weights in {dtype}")


def figures(precision: str, contender: Contender, taken: list[Run], file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    return {
        "precision": precision,
        "name": contender.name,
        "file_bytes": size,
        "seconds": summary(run.result["seconds"] for run in taken),
        "touched_seconds": summary(run.result["touched_seconds"] for run in taken),
        "peak_mb": summary(run.result["peak_bytes"] / 1e6 for run in taken),
        "peak_files": summary(run.result["peak_bytes"] / size for run in taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a tiny model")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    shape = dict(TINY if options.quick else GPT2)
    text = source_text(shape["vocab_size"])
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_folders(Path(folder, "tiny"), dict(TINY), text)
        folders = tiny if options.quick else write_folders(Path(folder, "model"), shape, text)
        results = measure(folders, tiny, options)
    result: dict[str, Any] = {
        "benchmark": "loading",
        "machine": machine(["gptlab", "torch", "transformers"], cores=available_cores()),
        "device": "cpu",
        "shape": shape,
        "rounds": options.rounds,
        "results": results,
    }
    if options.quick:
        show(result)
    else:
        publish("loading-cpu", result)


if __name__ == "__main__":
    main()
