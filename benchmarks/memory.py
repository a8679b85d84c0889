"""Peak memory of training GPT-2: gptlab beside its peers, and what it can trade for time.

    python benchmarks/memory.py [--quick] [--nanogpt FOLDER]

Every contender trains the same architecture, that of 2019, on the same random tokens with the same
steps: forward, backward, gradient clipping, fused AdamW, without dropout. gptlab takes part as
gptlab-train runs it, and once more with each of its settings that save memory. Each run is a
process of its own; told are the most memory that it ever had (its largest resident set, or on a
GPU what PyTorch had allocated there at its highest), what importing the library took of it, and
the seconds of a step after the first, which warms up. With several rounds they take turns, and
the median counts.

Hugging Face transformers comes with the extra `bench`; nanoGPT takes part if a checkout of it is
given. The result is printed and written to benchmarks/results/memory-DEVICE.json; --quick takes a
smaller model, and is printed alone.
"""

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Without torch: the system never says that a process has had less than the one that started it.
from measure import Run, available_cores, machine, run_task, summary
from report import publish, show

TASK = Path(__file__).with_name("memory_task.py")
# The library, and what gptlab is told beside the shape.
_OLD = {"arrangement": "2019"}
CONTENDERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gptlab": ("gptlab", _OLD),
    "Hugging Face transformers, GPT-2": ("transformers", {}),
    "nanoGPT": ("nanogpt", {}),
    "gptlab, loss_chunk 1024": ("gptlab", {**_OLD, "loss_chunk": 1024}),
    "gptlab, loss_chunk 256": ("gptlab", {**_OLD, "loss_chunk": 256}),
    "gptlab, activation_checkpointing": ("gptlab", {**_OLD, "activation_checkpointing": True}),
    "gptlab, activation_checkpointing, loss_chunk 1024": (
        "gptlab",
        {**_OLD, "activation_checkpointing": True, "loss_chunk": 1024},
    ),
    "gptlab, compiled": ("gptlab", {**_OLD, "compile": True}),
    "gptlab, compiled, loss_chunk 1024": ("gptlab", {**_OLD, "compile": True, "loss_chunk": 1024}),
}
SHAPE = {
    "vocab_size": 50304,
    "seq_len": 1024,
    "embed_dim": 768,
    "num_layers": 12,
    "n_heads": 12,
    "batch_size": 4,
}
QUICK = {"seq_len": 256, "num_layers": 4}


def measure(shape: dict[str, int], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Let all contenders take turns in each precision."""
    runs: dict[tuple[str, str], list[Run]] = {
        (name, precision): []
        for precision in arguments.precisions
        for name in arguments.contenders
        if can_take_part(CONTENDERS[name][0], arguments)
    }
    for _ in range(arguments.rounds):
        for (name, precision), taken in runs.items():
            library, settings = CONTENDERS[name]
            task = {
                "library": library,
                "settings": settings,
                "precision": precision,
                "shape": shape,
                "steps": arguments.steps,
                "nanogpt": arguments.nanogpt,
            }
            taken.append(run_task(TASK, task, cores=arguments.cores))
            print(
                f"{name}, {precision}: {peak_bytes(taken[-1]) / 1e9:.2f} GB, "
                f"{taken[-1].process_seconds:.0f} s in all",
                flush=True,
            )
    return [
        {
            "contender": name,
            "library": CONTENDERS[name][0],
            "precision": precision,
            "device": taken[0].result["device"],
            "parameters": taken[0].result["parameters"],
            "peak_gb": summary(peak_bytes(run) / 1e9 for run in taken),
            "library_gb": summary(run.result["library_bytes"] / 1e9 for run in taken),
            "step_seconds": summary(
                seconds for run in taken for seconds in run.result["seconds"][1:]
            ),
            "losses": [round(loss, 4) for loss in taken[0].result["losses"]],
        }
        for (name, precision), taken in runs.items()
    ]


def can_take_part(library: str, arguments: argparse.Namespace) -> bool:
    return bool(arguments.nanogpt) if library == "nanogpt" else find_spec(library) is not None


def peak_bytes(run: Run) -> int:
    return run.result["device_bytes"] or run.largest_process_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model")
    parser.add_argument("--nanogpt", help="folder with nanoGPT's model.py")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"some of: {'; '.join(CONTENDERS)}",
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"]
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cores", type=int, default=available_cores())
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps is 1, but the first one warms up; write 2 or more")
    shape = SHAPE | (QUICK if arguments.quick else {})
    results = measure(shape, arguments)
    device = results[0]["device"]
    packages = ["gptlab", "torch", *(["transformers"] if find_spec("transformers") else [])]
    result = {
        "benchmark": "memory",
        "machine": machine(packages, cores=arguments.cores),
        "device": device,
        "shape": shape,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "results": results,
    }
    if arguments.quick:
        show(result)
    else:
        publish(f"memory-{'cpu' if device == 'cpu' else 'cuda'}", result)


if __name__ == "__main__":
    main()
