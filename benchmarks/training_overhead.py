"""What a run's checkpoints, metrics and evaluations take of its time, with default intervals.

    python benchmarks/training_overhead.py [--steps 1000]

One run on stories of the shipped kind, with each part of the loop timed from within: what is
left beside training is the loop's own waiting, the copy that a checkpoint is written from included.
The writing itself happens beside the training, in a thread of its own, and is told apart. Prints a
table and writes benchmarks/results/training_overhead-DEVICE.json.
"""

import argparse
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measure import available_cores, machine
from report import publish

from gptlab import TrainConfig
from gptlab.data import toy
from gptlab.training import checkpoints, loop
from gptlab.training.checkpoints import Saver
from gptlab.training.recorder import Recorder

STORIES = 2000
RUN, WRITING = "run", "writing beside the training"
PARTS = {
    RUN: [(loop, "_run")],
    "training": [(loop, "train_step")],
    "evaluation": [(loop, "examine")],
    "metrics": [
        (Recorder, "count"),
        (Recorder, "write_training"),
        (Recorder, "write_evaluation"),
        (loop, "plot_run"),
    ],
    "checkpointing": [(Saver, "save"), (Saver, "close")],
    WRITING: [(checkpoints, "write_checkpoints")],
}
OVERHEADS = ("evaluation", "metrics", "checkpointing")


@contextmanager
def measured() -> Iterator[tuple[dict[str, float], dict[str, int]]]:
    """Seconds and calls of each of PARTS, and the Saver's wait, of what runs within."""
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def timed_work(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **options)
            finally:
                seconds[part] += time.perf_counter() - start
                calls[part] += 1

        return timed_work

    exit_saver = Saver.__exit__

    def noted_exit(saver: Saver, *error: Any) -> None:
        exit_saver(saver, *error)
        seconds["waiting for the writer"] = saver.waited_seconds

    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                work = timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, work))
        stack.enter_context(patch.object(Saver, "__exit__", noted_exit))
        yield seconds, calls


def run(shape: argparse.Namespace) -> tuple[dict[str, float], dict[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "stories.txt")
        text.write_text(toy.story_text(toy.generate_stories(STORIES, seed=11)))
        config = TrainConfig(
            train_data=str(text),
            runs_dir=f"{folder}/runs",
            experiment_name="overhead",
            max_steps=shape.steps,
            quiet=True,
            **{name: value for name, value in vars(shape).items() if name != "steps"},
        )
        with measured() as (seconds, calls):
            loop.train(config)
    return seconds, calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (
        ("steps", 1000),
        ("embed_dim", 128),
        ("num_layers", 4),
        ("n_heads", 4),
        ("seq_len", 128),
        ("batch_size", 32),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    shape = parser.parse_args()
    seconds, calls = run(shape)
    total = seconds[RUN]
    shares = {name: value / total for name, value in seconds.items()}
    shares["overhead together"] = sum(shares[name] for name in OVERHEADS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    publish(
        f"training_overhead-{device}",
        {
            "benchmark": "training_overhead",
            "machine": machine(["gptlab", "torch"], cores=available_cores()),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "shape": vars(shape),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "calls": dict(calls),
            "shares": {name: round(share, 5) for name, share in shares.items()},
        },
    )


if __name__ == "__main__":
    main()
