"""Fine-tuning a pretrained model: gptlab beside Hugging Face transformers and peft, in one go.

    python benchmarks/finetune.py [--quick] [--ways full lora ...] [--precisions fp32 bf16]
        [--device cuda] [--compile both] [--rounds 3] [--steps 5] [--batch_size 2] [--seq_len 256]

A GPT-2 of 124M parameters with random weights, in a folder that transformers wrote, learns Python
source by the step that gptlab-train and transformers' Trainer make: forward, backward, clipping,
fused AdamW, float32 but for the products where it says bf16. The ways: all weights (full), the last
two layers with what comes after them (last-2), adapters of rank 8 at all four matrices of a layer
(lora, https://arxiv.org/abs/2106.09685), and these upon a frozen model in 8 bits (lora-int8, gptlab
alone: peft's quantized layers need a GPU or other packages). Each takes part as it is and compiled;
gptlab-train compiles a GPU's steps, and a CPU's where the run is long enough to save time by it.

Each measurement is a process of its own, they take turns, and the median counts:

- tokens/s of a step. The first two steps, which compile and make the optimizer's state, do not
  count; of the others the median does.
- MB of gradients and of the optimizer's state, counted in their tensors.
- the most memory above that after the imports, loading included: resident memory of the process, or
  on a GPU what PyTorch had allocated at its highest.
- seconds from the folder to a model that is ready to learn, its adapters made and each page of
  its weights touched, and the most memory meanwhile, in sizes of the weights' file.

That both do the same is checked in the same run: they train as many parameters, and from the first
step on the loss of a way is the same in both within the bound that the table tells. Adapters begin
with the same values. The learning rates are higher than usual, so that a few steps learn something.

transformers and peft come with the extra `bench`; who fails is so recorded, and ends nothing else.
The result is printed and written to benchmarks/results/finetune-DEVICE.json; with --quick, which
takes a tiny model and one round and compiles nothing, or with --ways, --only or --compile it is
printed alone.
"""

import argparse
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetuners import LORA_WAYS, WAYS
from measure import Run, available_cores, machine, run_task, summary
from pretrained import GPT2, TINY, make_tokenizer, source_text, write_gpt2
from report import publish, show

TASK = Path(__file__).with_name("finetune_task.py")
WARM_UP_STEPS = 2
# How far the losses of two libraries may be apart at each step, in nats.
BOUNDS = {"fp32": 1e-3, "bf16": 5e-2}
COMPILING = {"on": (True,), "off": (False,), "both": (False, True)}
GPTLAB, PEER = "gptlab", "transformers"
_CHARACTERS_A_TOKEN = 8


@dataclass(frozen=True)
class Contender:
    """Who learns, in which way."""

    library: str
    way: str
    precision: str
    compiled: bool

    @property
    def name(self) -> str:
        """As tables call it; the same in each way and precision."""
        library = "transformers + peft" if self.is_peer and self.way in LORA_WAYS else self.library
        return f"{library}, compiled" if self.compiled else library

    @property
    def is_peer(self) -> bool:
        """Whether it is not gptlab."""
        return self.library == PEER


def contenders(options: argparse.Namespace) -> list[Contender]:
    everyone = [
        Contender(library, way, precision, compiled)
        for precision in options.precisions
        for way in options.ways
        for compiled in COMPILING[options.compile]
        for library in (GPTLAB, PEER)
        if not (library == PEER and way == "lora-int8")
    ]
    return [one for one in everyone if not options.only or one.name.startswith(tuple(options.only))]


def write_inputs(folder: Path, shape: Mapping[str, int], options: argparse.Namespace) -> int:
    """The model, a tiny one, and the batch of each step; bytes of the model's weights."""
    text = source_text(shape["vocab_size"])
    write_gpt2(folder / "tiny", TINY, make_tokenizer(text, TINY["vocab_size"]))
    tokenizer = make_tokenizer(text, shape["vocab_size"])
    size = write_gpt2(folder / "model", shape, tokenizer)
    windows = (WARM_UP_STEPS + options.steps, options.batch_size, options.seq_len + 1)
    number = math.prod(windows)
    ids = tokenizer.encode_to_array(text[: _CHARACTERS_A_TOKEN * number])
    # Where a long run wants more text than there is, it begins again.
    np.save(folder / "batches.npy", np.resize(ids, number).astype(np.int64).reshape(windows))
    return size


def measure(
    todo: Sequence[Contender], folder: Path, options: argparse.Namespace
) -> tuple[dict[Contender, list[Run]], dict[Contender, str]]:
    """What each came to in its rounds, and why some came to nothing."""
    runs: dict[Contender, list[Run]] = {one: [] for one in todo}
    failed: dict[Contender, str] = {}
    for _ in range(options.rounds):
        for one in todo:
            if one in failed:
                continue
            where = f"  {one.precision}, {one.way}, {one.name}"
            try:
                run = run_task(TASK, task_of(one, folder, options), cores=available_cores())
            except RuntimeError as error:
                failed[one] = str(error).partition(" from ")[0]
                print(f"{where}: failed", flush=True)
                continue
            runs[one].append(run)
            print(f"{where}: {step_seconds(run):.3f} s a step", flush=True)
    return runs, failed


def task_of(one: Contender, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "library": one.library,
        "job": {
            "way": one.way,
            "precision": one.precision,
            "compiled": one.compiled,
            "batch_size": options.batch_size,
            "seq_len": options.seq_len,
        },
        "device": options.device,
        "folder": str(folder / "model"),
        "warm_up": str(folder / "tiny"),
        "batches": str(folder / "batches.npy"),
    }


def step_seconds(run: Run) -> float:
    return float(np.median(run.result["seconds"][WARM_UP_STEPS:]))


def figures(
    one: Contender, runs: Sequence[Run], failure: str | None, *, tokens: int, file_bytes: int
) -> dict[str, Any]:
    """A contender's row; `tokens` are those of a step."""
    row = {"way": one.way, "precision": one.precision, "name": one.name, "library": one.library}
    if failure is not None:
        return row | {"failed": failure}
    first = runs[0].result
    return row | {
        "compiled": one.compiled,
        "tokens_per_second": summary(tokens / step_seconds(run) for run in runs),
        "first_step_seconds": round(first["seconds"][0], 2),
        "trained_parameters": first["trained_parameters"],
        "gradient_bytes": first["gradient_bytes"],
        "optimizer_bytes": first["optimizer_bytes"],
        "peak_mb": summary(run.result["peak_bytes"] / 1e6 for run in runs),
        "load_seconds": summary(run.result["load_seconds"] for run in runs),
        "load_files": summary(run.result["load_bytes"] / file_bytes for run in runs),
        "losses": [round(loss, 5) for loss in first["losses"]],
    }


def checks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """In each way and precision, how far apart two libraries are that ought to do the same."""
    found = []
    for row in rows:
        mates = [
            mate
            for mate in rows
            if "failed" not in mate
            and mate["library"] != row["library"]
            and (mate["way"], mate["precision"]) == (row["way"], row["precision"])
        ]
        if "failed" in row or row["library"] != GPTLAB or row["compiled"]:
            continue
        for mate in [mate for mate in mates if not mate["compiled"]]:
            apart = np.abs(np.subtract(row["losses"], mate["losses"]))
            bound = BOUNDS[row["precision"]]
            same = row["trained_parameters"] == mate["trained_parameters"]
            found.append(
                {
                    "way": row["way"],
                    "precision": row["precision"],
                    "trained_parameters": [row["trained_parameters"], mate["trained_parameters"]],
                    "losses": [row["losses"][0], row["losses"][-1]],
                    "first_difference": float(apart[0]),
                    "largest_difference": float(apart.max()),
                    "bound": bound,
                    "agree": bool(same and apart.max() <= bound),
                }
            )
    return found


def claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What adapters save, and how gptlab stands to its peer, each at its fastest."""
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        done = [row for row in rows if row["precision"] == precision and "failed" not in row]
        best: dict[tuple[str, str], Mapping[str, Any]] = {}
        for row in sorted(done, key=speed):
            best[row["library"], row["way"]] = row
        for (library, way), row in best.items():
            ratios: dict[str, float] = {}
            full, peer = best.get((library, "full")), best.get((PEER, way))
            if full is not None and way != "full":
                ratios["kept_of_full"] = kept_bytes(row) / kept_bytes(full)
                ratios["speed_of_full"] = speed(row) / speed(full)
            if peer is not None and library == GPTLAB:
                ratios["speed_of_peer"] = speed(row) / speed(peer)
                ratios["peak_of_peer"] = row["peak_mb"]["median"] / peer["peak_mb"]["median"]
            if ratios:
                found.append({"precision": precision, "library": library, "way": way, **ratios})
    order = [(library, way) for library in (GPTLAB, PEER) for way in WAYS]
    return sorted(found, key=lambda entry: order.index((entry["library"], entry["way"])))


def speed(row: Mapping[str, Any]) -> float:
    return float(row["tokens_per_second"]["median"])


def kept_bytes(row: Mapping[str, Any]) -> int:
    return int(row["gradient_bytes"] + row["optimizer_bytes"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a tiny model")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--only", nargs="+", help="beginnings of names of contenders")
    parser.add_argument("--compile", choices=tuple(COMPILING), default="both")
    parser.add_argument("--precisions", nargs="+", choices=tuple(BOUNDS))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help=f"timed ones, after {WARM_UP_STEPS}; 5, 20 cuda")
    parser.add_argument("--batch_size", type=int, help="2, or 16 on a GPU")
    parser.add_argument("--seq_len", type=int, help="256, or 1024 on a GPU")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    is_cuda = options.device == "cuda"
    is_whole = set(options.ways) == set(WAYS) and options.compile == "both"
    options.partial = bool(options.quick or options.only or not is_whole)
    if options.quick:
        options.rounds, options.steps, options.seq_len = 1, 2, TINY["seq_len"]
        options.compile = "off"
    options.precisions = options.precisions or ["bf16" if is_cuda else "fp32"]
    options.steps = options.steps or (20 if is_cuda else 5)
    options.batch_size = options.batch_size or (16 if is_cuda else 2)
    options.seq_len = options.seq_len or (1024 if is_cuda else 256)
    return options


def main() -> None:
    options = parse()
    shape = TINY if options.quick else GPT2
    todo = contenders(options)
    with tempfile.TemporaryDirectory() as name:
        # So that the first round compiles anew, and later ones need not.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/compiled"
        file_bytes = write_inputs(Path(name), shape, options)
        runs, failed = measure(todo, Path(name), options)
    tokens = options.batch_size * options.seq_len
    rows = [
        figures(one, runs[one], failed.get(one), tokens=tokens, file_bytes=file_bytes)
        for one in todo
    ]
    is_cuda = options.device == "cuda"
    result: dict[str, Any] = {
        "benchmark": "finetune",
        "machine": machine(["gptlab", "torch", "transformers", "peft"], cores=available_cores()),
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "shape": dict(shape),
        "batch_size": options.batch_size,
        "seq_len": options.seq_len,
        "rounds": options.rounds,
        "steps": options.steps,
        "file_bytes": file_bytes,
        "rows": rows,
        "checks": checks(rows),
        "claims": claims(rows),
    }
    if options.partial:
        show(result)
    else:
        publish(f"finetune-{options.device}", result)
    if any(not check["agree"] for check in result["checks"]):
        raise SystemExit("gptlab and its peer do not learn the same: see the checks")


if __name__ == "__main__":
    main()
