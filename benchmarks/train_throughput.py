"""Training tokens per second on this machine: gptlab beside its peers, in one go.

    python benchmarks/train_throughput.py [--quick] [--nanogpt FOLDER] [--shapes char bpe gpt2 ...]

Every contender trains a model of the same size on the same random tokens with the same step:
forward, backward, gradient clipping, fused AdamW, all in float32 but for the products where it
says bf16. "gptlab" is what gptlab-train makes by default (rotary positions, QK norm, squared
ReLU), "gptlab, GPT-2's parts" the peers' architecture. Each lives in a process of its own; on a
CPU they take turns, round by round, so that a machine whose speed drifts is as fair to one as to
another, and the median round counts. On a GPU, where they would not fit beside each other, they
come one after another.

The share of the peak is the FLOPs of the model, 6 N + 12 L D T a token, over what the device does
in matrix products alone: on a CPU measured in the same go, on a GPU as published. `--growth` asks
how speed and memory change with length, width and depth, of gptlab alone, and draws
docs/pictures/growth.png.

Hugging Face transformers comes with the extra `bench`; nanoGPT takes part if a checkout of it is
given. The result is printed and written to benchmarks/results/train_throughput-DEVICE.json, beside
the shapes measured there before; --quick takes fewer rounds, and is printed alone.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from measure import available_cores, machine, summary
from report import publish, show

from gptlab.model.flash import PACKAGES
from gptlab.training.peak import peak_flops
from gptlab.training.precision import Arithmetic

TASK = Path(__file__).with_name("train_throughput_task.py")
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "growth.png"
_SMALL = {"embed_dim": 384, "num_layers": 6, "n_heads": 6, "seq_len": 256, "batch_size": 16}
_GPT2 = {"embed_dim": 768, "num_layers": 12, "n_heads": 12, "seq_len": 1024, "vocab_size": 50304}
SHAPES: Mapping[str, dict[str, int]] = {
    "char": {**_SMALL, "vocab_size": 65},
    "bpe": {**_SMALL, "vocab_size": 8192},
    "gpt2": {**_GPT2, "batch_size": 4},
    "gpt2-gpu": {**_GPT2, "batch_size": 32},
}


@dataclass(frozen=True)
class Contender:
    """Who trains, and how."""

    name: str
    library: str
    precision: str = "bf16"
    settings: Mapping[str, Any] | None = None


_OLD = {"arrangement": "2019"}
_COMPILED = {"compile": True}
_FLASH = {"attention": "flash"}
ON_CPU = (
    Contender("gptlab, compiled, bf16", "gptlab", settings=_COMPILED),
    Contender("gptlab, bf16", "gptlab"),
    Contender("gptlab, GPT-2's parts, compiled, bf16", "gptlab", settings=_OLD | _COMPILED),
    Contender("gptlab, GPT-2's parts, bf16", "gptlab", settings=_OLD),
    Contender("gptlab, compiled, fp32", "gptlab", "fp32", _COMPILED),
    Contender("gptlab, fp32", "gptlab", "fp32"),
    Contender("nanoGPT, fp32", "nanogpt", "fp32"),
    Contender("nanoGPT, compiled, fp32", "nanogpt", "fp32", _COMPILED),
    Contender("nanoGPT in autocast, bf16", "nanogpt"),
    Contender("transformers GPT-2, bf16", "transformers"),
    Contender("transformers GPT-2, fp32", "transformers", "fp32"),
)
ON_GPU = (
    Contender("gptlab, compiled, bf16", "gptlab", settings=_COMPILED),
    Contender("gptlab, GPT-2's parts, compiled, bf16", "gptlab", settings=_OLD | _COMPILED),
    Contender("gptlab, compiled, fp16", "gptlab", "fp16", _COMPILED),
    Contender("gptlab, flash, compiled, bf16", "gptlab", settings=_COMPILED | _FLASH),
    Contender("nanoGPT, compiled, bf16", "nanogpt", settings=_COMPILED),
    Contender("transformers GPT-2, compiled, bf16", "transformers", settings=_COMPILED),
    Contender("transformers GPT-2, bf16", "transformers"),
)
# Of gptlab alone: one measure of the small model changed at a time.
GROWTH: Mapping[str, tuple[int, ...]] = {
    "seq_len": (128, 256, 512, 1024, 2048),
    "embed_dim": (192, 384, 768),
    "num_layers": (3, 6, 12),
}


class Worker:
    """A contender's process, ready to make steps."""

    def __init__(self, contender: Contender, shape: dict[str, int], nanogpt: str | None) -> None:
        task = {
            "library": contender.library,
            "precision": contender.precision,
            "settings": dict(contender.settings or {}),
            "shape": shape,
            "nanogpt": nanogpt,
            "cores": available_cores(),
        }
        command = [sys.executable, str(TASK), json.dumps(task)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self._answer()

    def steps(self, number: int) -> dict[str, Any]:
        """Let it make some steps; what it says of them."""
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        stdin.write(f"{number}\n")
        stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # A library may print of its own.
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"exit code {self._process.wait()} from a contender")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def flops_per_token(shape: Mapping[str, int]) -> int:
    width, layers = shape["embed_dim"], shape["num_layers"]
    weights = 12 * layers * width**2 + shape["vocab_size"] * width
    return 6 * weights + 12 * layers * width * shape["seq_len"]


def take_turns(
    contenders: list[Contender], shape: dict[str, int], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """What each says of its rounds."""
    answers: dict[str, list[dict[str, Any]]] = {}
    alone = torch.cuda.is_available()
    groups = [[contender] for contender in contenders] if alone else [contenders]
    for group in groups:
        with ExitStack() as stack:
            workers = {}
            for contender in group:
                worker = stack.enter_context(Worker(contender, shape, options.nanogpt))
                workers[contender.name] = worker
            for _ in range(options.rounds):
                for name, worker in workers.items():
                    answer = worker.ready | worker.steps(options.steps)
                    answers.setdefault(name, []).append(answer)
                    print(f"  {name}: {answer['seconds']:.3f} s a step", flush=True)
    return answers


def measure(name: str, contenders: list[Contender], options: argparse.Namespace) -> dict[str, Any]:
    """One shape: speeds, shares of the peak, and what else the contenders say."""
    shape = SHAPES[name]
    print(f"{name}: {shape}", flush=True)
    peaks = {precision: peak(precision) for precision in ("bf16", "fp16", "fp32")}
    answers = take_turns(contenders, shape, options)
    tokens = shape["batch_size"] * shape["seq_len"]
    speeds = {
        who: summary(tokens / answer["seconds"] for answer in rounds)
        for who, rounds in answers.items()
    }
    shares = {}
    for contender in contenders:
        rate = peaks[contender.precision]
        if rate is not None:
            used = flops_per_token(shape) * speeds[contender.name]["median"]
            shares[contender.name] = round(used / rate, 4)
    return {
        "name": f"{name}: {', '.join(f'{key} {value:,}' for key, value in shape.items())}",
        "shape": shape,
        "peak_flops": peaks,
        "tokens_per_second": speeds,
        "share_of_peak": shares,
        "first_step_seconds": {
            who: round(rounds[0]["first_step_seconds"], 1) for who, rounds in answers.items()
        },
        "device_bytes": {
            who: max(answer["device_bytes"] for answer in rounds)
            for who, rounds in answers.items()
            if "device_bytes" in rounds[0]
        },
    }


def others(device: str, fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The shapes in an earlier result that were not measured anew."""
    path = Path(__file__).parent / "results" / f"train_throughput-{device}.json"
    former = json.loads(path.read_text())["shapes"] if path.exists() else []
    again = [entry["shape"] for entry in fresh]
    return [entry for entry in former if entry["shape"] not in again]


def has_flash() -> bool:
    """Whether some flash-attn package is installed."""
    return any(find_spec(name.split(".")[0]) for name in {package.module for package in PACKAGES})


def peak(precision: str) -> float | None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and precision == "fp16":
        return None
    return peak_flops(Arithmetic(device, precision))


def growth(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Speed and memory of gptlab as one measure of the small model changes; 4,096 tokens a step."""
    rows = []
    for changed, values in GROWTH.items():
        for value in values:
            shape = {**SHAPES["char"], changed: value}
            shape["n_heads"] = shape["embed_dim"] // 64
            shape["batch_size"] = 4096 // shape["seq_len"]
            with Worker(Contender("gptlab", "gptlab"), shape, None) as worker:
                answers = [worker.steps(options.steps) for _ in range(options.rounds)]
            speed = summary(4096 / answer["seconds"] for answer in answers)
            rows.append(
                {
                    "changed": changed,
                    "value": value,
                    "flops_per_token": flops_per_token(shape),
                    "tokens_per_second": speed,
                    "resident_bytes": answers[-1]["resident_bytes"],
                }
            )
            print(f"  {changed} {value}: {speed['median']:,.0f} tokens/s", flush=True)
    return rows


def draw_growth(rows: list[dict[str, Any]]) -> None:
    """Speed and memory over each of the measures, as a picture for the pages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots(2, len(GROWTH), sharex="col", sharey="row")
    for column, changed in enumerate(GROWTH):
        mine = [row for row in rows if row["changed"] == changed]
        values = [row["value"] for row in mine]
        speeds = [row["tokens_per_second"]["median"] for row in mine]
        memory = [row["resident_bytes"] / 2**30 for row in mine]
        for axis, figures in ((axes[0][column], speeds), (axes[1][column], memory)):
            axis.plot(values, figures, marker="o")
            axis.set_xscale("log", base=2)
            axis.set_xticks(values, [f"{value:,}" for value in values])
            axis.grid(alpha=0.3)
        axes[1][column].set_xlabel(changed)
    for axis in axes[:, 0]:
        # Shared along the row, so only once all of it is drawn.
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("tokens/s")
    axes[1][0].set_ylabel("memory of the process, GiB")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    is_cuda = torch.cuda.is_available()
    parser.add_argument("--nanogpt", metavar="FOLDER", help="with nanoGPT's model.py")
    parser.add_argument("--quick", action="store_true", help="two rounds, printed alone")
    parser.add_argument("--growth", action="store_true", help="measure growth in place of peers")
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["gpt2-gpu"] if is_cuda else ["char", "bpe"]
    )
    parser.add_argument("--only", nargs="+", help="beginnings of names of contenders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20 if is_cuda else 2)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    device = "cuda" if is_cuda else "cpu"
    result: dict[str, Any] = {
        "benchmark": "train_throughput",
        "machine": machine(["torch", "transformers"], cores=available_cores()),
        "device": torch.cuda.get_device_name() if is_cuda else "CPU",
    }
    if options.growth:
        result |= {"benchmark": "growth", "rows": growth(options)}
        draw_growth(result["rows"])
    else:
        contenders = [
            contender
            for contender in (ON_GPU if is_cuda else ON_CPU)
            if (contender.library != "nanogpt" or options.nanogpt)
            and (contender.library != "transformers" or find_spec("transformers"))
            and ("attention" not in (contender.settings or {}) or has_flash())
            and (not options.only or contender.name.startswith(tuple(options.only)))
        ]
        fresh = [measure(name, contenders, options) for name in options.shapes]
        result["shapes"] = others(device, fresh) + fresh
    if options.quick:
        show(result)
    else:
        publish(f"{result['benchmark']}-{device}", result)


if __name__ == "__main__":
    main()
