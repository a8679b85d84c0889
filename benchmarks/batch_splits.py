"""Compute one batch in many splits, over micro-batches and processes, and compare the gradients.

    python benchmarks/batch_splits.py

32 windows of stories, some of them padded, in fp32: in one piece, in parts of equal and of ragged
sizes, and shared by 2 and 4 processes (ddp and fsdp). Told is the largest difference from the one
piece, in units of the largest number of the same tensor; and, for a run of 30 steps, the largest
difference of the loss in nats per token. Prints two tables and writes
benchmarks/results/batch_splits-cpu.json.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import available_cores, machine
from report import publish

import gptlab
from gptlab.config import PrepareConfig, TrainConfig
from gptlab.data import toy
from gptlab.training.metrics import read_metrics
from gptlab.training.ranks import joined
from gptlab.training.session import open_session
from gptlab.training.step import train_step

BATCH = 32
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "cross entropy": {},
    "key tokens, smoothing, z-loss": {
        "key_tokens": (" cat", "."),
        "key_weight": 3.0,
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
    },
    "key windows, chunked": {"key_tokens": (".",), "key_mode": "sample", "loss_chunk": 100},
}
# Processes, how they share, parts of each one's share.
SPLITS: Mapping[str, tuple[int, str, int]] = {
    "1 x 32": (1, "ddp", 1),
    "4 x 8": (1, "ddp", 4),
    "5 parts of 6 and 7": (1, "ddp", 5),
    "32 x 1": (1, "ddp", 32),
    "2 processes, 1 x 16": (2, "ddp", 1),
    "2 processes, 3 parts of 5 and 6": (2, "ddp", 3),
    "2 processes, fsdp, 3 parts": (2, "fsdp", 3),
    "4 processes, ddp": (4, "ddp", 1),
    "4 processes, fsdp, 2 x 4": (4, "fsdp", 2),
}


class Keeper:
    """In an optimizer's place: keeps the gradients that it should follow."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.param_groups: list[dict[str, Any]] = [{}]
        self.gradients: dict[str, torch.Tensor] = {}

    def step(self) -> None:
        """Keep copies of all gradients, whole."""
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad
            whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            self.gradients[name] = whole.clone()


def config_of(**changes: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "train_data": "stories",
            "embed_dim": 64,
            "num_layers": 2,
            "n_heads": 4,
            "seq_len": 64,
            "batch_size": BATCH,
            "max_steps": 30,
            "eval_steps": 10,
            "log_every": 1,
            "grad_clip": 0.0,
            "patience": 0,
            "sample_length": 0,
            "save_strategy": "no",
            "device": "cpu",
            "precision": "fp32",
            "quiet": True,
            **changes,
        }
    )


def work(split: str) -> None:
    """What one process of a split does: the gradients of each loss, and a run."""
    torch.set_num_threads(1)
    _, mode, parts = SPLITS[split]
    found = {}
    ports = os.environ["PORTS"].split()
    for loss, settings in LOSSES.items():
        # At the former port the first process may still be leaving.
        os.environ["MASTER_PORT"] = ports.pop()
        with joined("cpu") as ranks:
            session = open_session(config_of(parallel=mode, **settings), ranks)
            with session.loader:
                keeper = Keeper(session.model)
                session = replace(session, parts=parts, optimizers=(keeper,))
                train_step(session, session.module)
            found[loss] = keeper.gradients
            is_first = ranks.is_first
    name = str(list(SPLITS).index(split))
    os.environ["MASTER_PORT"] = ports.pop()
    gptlab.train(
        config_of(
            parallel=mode,
            gradient_accumulation_steps=parts,
            experiment_name=name,
            **LOSSES["key tokens, smoothing, z-loss"],
        )
    )
    if is_first:
        torch.save(found, f"{name}.pt")


def start(split: str, folder: Path) -> None:
    """Do the work of a split in as many processes as it has."""
    size = SPLITS[split][0]
    ports = " ".join(str(port) for port in free_ports(len(LOSSES) + 1))
    job = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "PORTS": ports}
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--split", split],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
            | {name: str(value) for name, value in job.items()},
        )
        for rank in range(size)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"'{split}' has failed")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        places = [stack.enter_context(socket.socket()) for _ in range(count)]
        for place in places:
            place.bind(("127.0.0.1", 0))
        return [place.getsockname()[1] for place in places]


def deviation(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """The largest difference, in units of the largest number of its tensor."""
    return max(
        ((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()).item()
        for name in theirs
    )


def losses(run: Path) -> Iterator[float]:
    return (record["loss"] for record in read_metrics(run))


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Differences by split and by what was computed."""
    stories = toy.generate_stories(150, seed=3)
    lines = [json.dumps({"text": story}) + "\n" for story in stories]
    (folder / "stories.jsonl").write_text("".join(lines))
    gptlab.train_bpe(texts=stories, vocab_size=512).save(folder / "tok")
    gptlab.prepare(
        PrepareConfig(
            sources=(str(folder / "stories.jsonl"),),
            tokenizer=str(folder / "tok"),
            output=str(folder / "stories"),
            mode="chunk",
            short="pad",
            seq_len=64,
            dev_size=0.1,
            quiet=True,
        )
    )
    results: dict[str, dict[str, float]] = {}
    expected: dict[str, dict[str, torch.Tensor]] = {}
    for number, split in enumerate(SPLITS):
        start(split, folder)
        found = torch.load(folder / f"{number}.pt", weights_only=True)
        expected = expected or found
        results[split] = {name: deviation(found[name], expected[name]) for name in LOSSES}
        pairs = zip(losses(folder / "runs" / str(number)), losses(folder / "runs/0"), strict=True)
        results[split]["loss of a run"] = max(abs(one - other) for one, other in pairs)
        print(split, json.dumps(results[split]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--split", help="work as one process of this split")
    args = parser.parse_args()
    if args.split:
        work(args.split)
        return
    with tempfile.TemporaryDirectory() as place:
        results = measure(Path(place))
    publish(
        "batch_splits-cpu",
        {
            "benchmark": "batch_splits",
            "machine": machine(["gptlab", "torch"], cores=available_cores()),
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
