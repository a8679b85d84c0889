"""Make the reference curves, and show what they catch.

    python benchmarks/reference_curves.py            train ten seeds, and write the curves into
                                                     src/gptlab/training/reference_curves.json
    python benchmarks/reference_curves.py --faults   train seed 0 computed in other ways, and with
                                                     something wrong, and compare with the curves

The second prints a table and writes benchmarks/results/reference_curves-cpu.json. All on a CPU, on
one thread unless OMP_NUM_THREADS says otherwise.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import machine
from report import publish

from gptlab.config import DatasetConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from gptlab.training import reference
from gptlab.training.reference import CHOOSABLE, REFERENCE_FILE, compare_curve, read_curve

SEEDS = 10
RUN = {
    "tokenizer": "auto",
    "vocab_size": 384,
    "embed_dim": 64,
    "num_layers": 2,
    "n_heads": 2,
    "seq_len": 64,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "warmup_steps": 30,
    "max_steps": 300,
    "log_every": 10,
    "eval_steps": 50,
    "patience": 0,
    "sample_length": 0,
    "save_strategy": "no",
}
HERE = {"device": "cpu", "precision": "fp32", "compile": "off", "quiet": True}

# The same run, computed in another way.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "as recorded": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "torch.compile": {"compile": "on"},
    "attention written out": {"attention": "reference"},
    "micro-batches of 5": {"micro_batch_size": 5},
    "activation checkpointing": {"activation_checkpointing": True},
    "loss in chunks of 100 tokens": {"loss_chunk": 100},
}
# Another run, as a fault would make of it.
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "learning rate 25% too high": {"learning_rate": 3.75e-3},
    "learning rate 10% too high": {"learning_rate": 3.3e-3},
    "no warm-up": {"warmup_steps": 0},
    "gradients not clipped": {"grad_clip": 0},
    "no weight decay": {"weight_decay": 0},
    "beta2 0.999, not 0.95": {"beta2": 0.999},
    "no positions": {"positions": "none"},
    "no norm of queries and keys": {"qk_norm": False},
    "GELU, not squared ReLU": {"activation": "gelu"},
    "dropout 0.1": {"dropout": 0.1},
    "windows in the order of the text": {"shuffle": False},
    "base of rotary positions 1,000": {"rope_theta": 1000},
}


def settings_of_run() -> dict[str, Any]:
    """All that decides what is learned, so that another default leaves the run as it is."""
    config = TrainConfig(**RUN, train_data="stories.txt")
    parts = (ModelConfig, OptimizerConfig, LossConfig, DatasetConfig)
    names = {name for part in parts for name in part.model_fields} | RUN.keys()
    return {name: getattr(config, name) for name in sorted(names - CHOOSABLE - {"seed"})}


def make_curves() -> None:
    settings = settings_of_run()
    curves = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(SEEDS):
            start = time.perf_counter()
            run = reference.train_reference(settings, Path(folder), seed=seed, **HERE)
            curves.append(read_curve(run.path))
            print(f"seed {seed}: {run.eval_loss:.4f} in {time.perf_counter() - start:.0f} s")
    points = [
        {
            "split": split,
            "step": step,
            "mean": round(statistics.mean(losses), 6),
            "deviation": round(statistics.stdev(losses), 6),
            "seed_0": round(losses[0], 6),
        }
        for split, step in curves[0]
        for losses in [[curve[split, step] for curve in curves]]
    ]
    content = {
        "settings": settings,
        "seeds": SEEDS,
        "made_with": machine(["gptlab", "torch", "numpy"], cores=1),
        "points": points,
    }
    path = Path(reference.__file__).with_name(REFERENCE_FILE)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}")


def compare_faults() -> None:
    known = reference.read_reference()
    results = {}
    for kind, changes_by_name in (("rounding", WAYS), ("fault", FAULTS)):
        for name, changes in changes_by_name.items():
            with tempfile.TemporaryDirectory() as folder:
                all_changes = {**HERE, "seed": 0, **changes}
                run = reference.train_reference(known.settings, Path(folder), **all_changes)
                check = compare_curve(read_curve(run.path), known.points)
            results[name] = {
                "kind": kind,
                "deviations": round(check.deviations, 2),
                "split": check.worst.split,
                "step": check.worst.step,
                "from_seed_0": round(check.from_seed_0, 6),
                "in_band": check.in_band,
            }
            print(name, results[name], flush=True)
    publish(
        "reference_curves-cpu",
        {
            "benchmark": "reference_curves",
            "machine": machine(["gptlab", "torch"], cores=1),
            "limit": reference.LIMIT,
            "runs": results,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", action="store_true", help="compare runs with the curves")
    (compare_faults if parser.parse_args().faults else make_curves)()


if __name__ == "__main__":
    main()
