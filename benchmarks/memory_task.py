"""A few training steps of one library, in a process of its own: see memory.py.

    python benchmarks/memory_task.py '{"library": "gptlab", "precision": "bf16", "cores": 2, ...}'

Prints the seconds of each step, and the memory that the imports took; on a GPU, the most that
PyTorch has had allocated on it, too.
"""

import json
import sys
import time
from typing import Any

import torch
from measure import use_cores
from trainees import LIBRARIES, Work, random_batch, resident_bytes, step, work_of


def train(library: str, work: Work, steps: int) -> dict[str, Any]:
    build = LIBRARIES[library](work)
    library_bytes = resident_bytes()
    trainee = build()
    inputs, targets = random_batch(work)
    seconds, losses = [], []
    for _ in range(steps):
        start = time.perf_counter()
        losses.append(step(trainee, inputs, targets).item())
        if work.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    is_cuda = work.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "library_bytes": library_bytes,
        "device_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
        "parameters": sum(parameter.numel() for parameter in trainee.model.parameters()),
        "seconds": seconds,
        "losses": losses,
    }


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["cores"])
    print(json.dumps(train(task["library"], work_of(task), task["steps"])))


if __name__ == "__main__":
    main()
