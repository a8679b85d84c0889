"""Kill runs with SIGKILL at random moments, resume them, and compare what they end with.

    python benchmarks/kill_and_resume.py [--runs 5] [--seed 0]

For each setting one run goes straight through. Others are killed again and again, as whole groups
of processes, after a random part of the time that the straight one took, and resumed by the same
command, until one of them gets to the end. Then every tensor in every checkpoint, the samples and
the metrics (but for times and memory) are held against the straight run's, byte for byte. Prints a
table and writes benchmarks/results/kill_and_resume-DEVICE.json; exits with 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from measure import available_cores, machine
from report import publish

from gptlab.checkpoint import load_tensors
from gptlab.data import toy
from gptlab.training.metrics import MEASURED, read_metrics

STORIES = 60
EVERYTHING = {
    "dropout": 0.2,
    "gradient_accumulation_steps": 3,
    "optimizer": "muon",
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
}
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "fp16 with its scale": {"precision": "fp16"},
    "dropout, parts of batches, Muon, average": EVERYTHING,
    "the same, 2 processes, fsdp": {**EVERYTHING, "parallel": "fsdp"},
}
PROCESSES = {"the same, 2 processes, fsdp": 2}
RUN = {
    "train_data": "stories.txt",
    "vocab_size": 320,
    "embed_dim": 32,
    "num_layers": 2,
    "n_heads": 2,
    "seq_len": 32,
    "batch_size": 12,
    "max_steps": 150,
    "eval_steps": 14,
    "save_every": 5,
    "keep_last": 2,
    "log_every": 4,
    "patience": 0,
    "sample_length": 10,
    "resume": True,
    "deterministic": True,
}
# A run is killed within this share of what a straight one takes, and so several times.
LONGEST = 0.8


@dataclass
class Counts:
    """What happened to the runs of one setting."""

    runs: int = 0
    kills: int = 0
    kills_before_a_checkpoint: int = 0
    kills_while_writing: int = 0
    """With an unfinished folder left behind."""
    compared: int = 0
    bytes: int = 0
    differing: list[str] = field(default_factory=list)


def command(name: str, settings: Mapping[str, object], processes: int) -> list[str]:
    flags = [f"--{key}={value}" for key, value in {**RUN, **settings}.items()]
    flags.append(f"--experiment_name={name}")
    if processes == 1:
        return [sys.executable, "-m", "gptlab.cli.train", *flags]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    return [sys.executable, *torchrun, f"--master_port={port}", "-m", "gptlab.cli.train", *flags]


def start(folder: Path, *args: object) -> subprocess.Popen[bytes]:
    """A run in a process group of its own, which is killed as one."""
    return subprocess.Popen(
        command(*args),  # type: ignore[arg-type]
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], seconds: float | None = None) -> bool:
    """Wait for a run, or kill it after `seconds`; whether it got to the end."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        members = children(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        for member in members:
            # The processes of torchrun are groups of their own.
            try:
                os.kill(member, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()
        return False
    if process.returncode:
        raise RuntimeError(errors.decode())
    return True


def children(pid: int) -> list[int]:
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for line in lists for child in line.split()]


def compare(run: Path, straight: Path, counts: Counts) -> None:
    """Count everything that follows from settings and data, and what of it differs."""
    contents = []
    for folder in (run, straight):
        found = {
            f"{str(file.relative_to(folder)).replace(folder.name, 'NAME')} {name}": _bytes(tensor)
            for file in folder.rglob("*.safetensors")
            for name, tensor in load_tensors(file).items()
        }
        found["samples.txt"] = (folder / "samples.txt").read_bytes()
        records = [
            {name: value for name, value in record.items() if name not in MEASURED}
            for record in read_metrics(folder)
        ]
        contents.append({**found, "metrics.jsonl": json.dumps(records).encode()})
    ours, theirs = contents
    counts.compared += len(theirs)
    counts.bytes += sum(map(len, theirs.values()))
    counts.differing += [
        f"{run.name}/{name}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def kill_and_resume(name: str, folder: Path, *, runs: int, chance: random.Random) -> Counts:
    settings, processes = SETTINGS[name], PROCESSES.get(name, 1)
    started = time.perf_counter()
    end(start(folder, "straight", settings, processes))
    seconds = time.perf_counter() - started
    counts = Counts()
    for number in range(runs):
        run = folder / "runs" / f"killed-{number}"
        while not end(
            start(folder, run.name, settings, processes), chance.uniform(0, LONGEST * seconds)
        ):
            counts.kills += 1
            counts.kills_before_a_checkpoint += not any(run.glob("last-*"))
            counts.kills_while_writing += any(path.is_dir() for path in run.glob(".*"))
        counts.runs += 1
        compare(run, folder / "runs" / "straight", counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs to kill, for each setting")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    results: dict[str, Counts] = {}
    for name in SETTINGS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            text = toy.story_text(toy.generate_stories(STORIES, seed=5))
            (folder / "stories.txt").write_text(text)
            results[name] = kill_and_resume(name, folder, runs=args.runs, chance=chance)
        print(name, results[name], flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    publish(
        f"kill_and_resume-{device}",
        {
            "benchmark": "kill_and_resume",
            "machine": machine(["gptlab", "torch"], cores=available_cores()),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "seed": args.seed,
            "settings": {name: {**RUN, **SETTINGS[name]} for name in SETTINGS},
            "results": {name: vars(counts) for name, counts in results.items()},
        },
    )
    if any(counts.differing for counts in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
