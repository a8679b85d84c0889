"""What batches cost beside the steps that train on them, in a process of its own: see prepare.py.

    python benchmarks/prepare_batches_task.py '{"source": ..., "cores": 2, ...}'

Prepares the texts in each of several ways, trains a few steps on each, and prints for each the
seconds of a step, of making a batch, and of waiting for one.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import use_cores

WARM_UP_STEPS = 2
BATCHES = 200
# The vocabulary is the tokenizer's.
SHAPES: dict[str, dict[str, Any]] = {
    "preset toy": {
        "embed_dim": 128,
        "num_layers": 4,
        "n_heads": 4,
        "seq_len": 128,
        "batch_size": 32,
    },
    "6 layers of 384": {
        "embed_dim": 384,
        "num_layers": 6,
        "n_heads": 6,
        "seq_len": 256,
        "batch_size": 16,
    },
}
MASKED = {"document_mask": True, "reset_positions": True}


def cases(seq_len: int) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, settings of the preparation and settings of the run."""
    stream = {"dev_size": 0.01}
    chunk = {"mode": "chunk", "seq_len": seq_len, "short": "pad", "dev_size": 0.01}
    segment = {"mode": "segment", "segment_len": seq_len, "stride": 10, "dev_size": 0.01}
    yield "stream", stream, {}
    yield "stream, document mask", stream, MASKED
    yield "chunk, padded", chunk, {}
    yield "segment, stride 10", segment, {}
    yield "segment, random windows", {**segment, "split": "random-windows", "dev_size": 0.1}, {}


def measure_case(
    dataset: Path, folder: Path, shape: dict[str, Any], settings: dict[str, Any], steps: int
) -> dict[str, Any]:
    """Train some steps as `gptlab-train` does, and then make batches of random steps."""
    import gptlab
    from gptlab.training.session import open_session
    from gptlab.training.step import train_step

    config = gptlab.TrainConfig(
        **shape,
        **settings,
        train_data=str(dataset),
        runs_dir=str(folder / "runs"),
        max_steps=WARM_UP_STEPS + steps,
        device="cpu",
        quiet=True,
    )
    session = open_session(config)
    loader, sampler = session.loader, session.sampler
    with loader:
        for _ in range(WARM_UP_STEPS):
            train_step(session, session.model)
        waited = loader.seconds_waited
        step_seconds = [seconds_of(train_step, session, session.model) for _ in range(steps)]
        waited = loader.seconds_waited - waited
    epochs = 10
    drawn = np.random.default_rng(0).integers(sampler.step_at(epochs), size=BATCHES)
    batch_seconds = [seconds_of(sampler.batch, step) for step in drawn.tolist()]
    step_median, batch_median = map(statistics.median, (step_seconds, batch_seconds))
    return {
        "windows": sampler.num_windows,
        "vocab_size": session.config.vocab_size,
        "precision": session.config.precision,
        "step_seconds": step_median,
        "batch_seconds": batch_median,
        "batch_percent": 100 * batch_median / step_median,
        "waited_seconds": waited / steps,
        "waited_percent": 100 * waited / sum(step_seconds),
    }


def seconds_of(call: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def measure(source: str, tokenizer: str, folder: str, steps: int, cores: int) -> dict[str, Any]:
    import torch

    import gptlab

    use_cores(cores)
    torch.set_num_threads(cores)
    results = []
    prepared: dict[str, Path] = {}
    for shape_name, shape in SHAPES.items():
        for name, preparation, settings in cases(shape["seq_len"]):
            key = json.dumps(preparation)
            if key not in prepared:
                prepared[key] = Path(folder, f"dataset-{len(prepared)}")
                config = gptlab.PrepareConfig(
                    **preparation,
                    sources=(source,),
                    output=str(prepared[key]),
                    tokenizer=tokenizer,
                    processes=cores,
                    quiet=True,
                )
                gptlab.prepare(config)
            figures = measure_case(prepared[key], Path(folder), shape, settings, steps)
            results.append({"model": shape_name, "windows_of": name, **figures})
    return {"shapes": SHAPES, "steps": steps, "batches": BATCHES, "results": results}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
