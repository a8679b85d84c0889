"""One library that fine-tunes a model in one way, in a process of its own: see finetune.py.

    python benchmarks/finetune_task.py '{"library": "gptlab", "way": "lora", "cores": 2, ...}'

Prints the seconds and the loss of each step, what gradients and the optimizer's state take, what
loading took, and the most memory above that before it.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from finetuners import LIBRARIES, Job
from loading_task import touch
from measure import peak_resident, restart_peak, use_cores
from torch import Tensor
from trainees import Trainee, step


class Memory:
    """The most memory above that at the beginning: of the process, or on a GPU of tensors."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        if self._is_cuda:
            torch.zeros(1, device=device)
            torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated() if self._is_cuda else restart_peak()

    def peak(self) -> int:
        """Bytes."""
        most = torch.cuda.max_memory_allocated() if self._is_cuda else peak_resident()
        return most - self._before


def gradient_bytes(trainee: Trainee, batch: tuple[Tensor, Tensor]) -> int:
    """Bytes of all gradients after a pass forward and backward."""
    trainee.loss_of(*batch).backward()
    size = sum(
        parameter.grad.nbytes
        for parameter in trainee.model.parameters()
        if parameter.grad is not None
    )
    trainee.model.zero_grad(set_to_none=True)
    return size


def optimizer_bytes(trainee: Trainee) -> int:
    """Bytes of all tensors that the optimizers keep."""
    return sum(
        value.nbytes
        for optimizer in trainee.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def batches(task: dict[str, Any], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of each step, (B, T) each."""
    windows = torch.from_numpy(np.load(task["batches"])).to(device)
    return [(window[:, :-1].contiguous(), window[:, 1:].contiguous()) for window in windows]


def measure(task: dict[str, Any]) -> dict[str, Any]:
    library = LIBRARIES[task["library"]]
    device = torch.device(task["device"])
    job = Job(device=device, **task["job"])
    library.prepare(job)
    # What is imported when it is first used is no part of loading.
    library.load(job, task["warm_up"])
    memory = Memory(device)
    start = time.perf_counter()
    model = library.load(job, task["folder"])
    if device.type == "cuda":
        torch.cuda.synchronize()
    else:
        touch(model)
    load_seconds, load_bytes = time.perf_counter() - start, memory.peak()
    trainee = library.trainee(model, job)
    seconds, losses = [], []
    for inputs, targets in (todo := batches(task, device)):
        start = time.perf_counter()
        # Reading the loss waits for a GPU.
        losses.append(step(trainee, inputs, targets).item())
        seconds.append(time.perf_counter() - start)
    peak_bytes = memory.peak()
    trained = [parameter for parameter in trainee.model.parameters() if parameter.requires_grad]
    return {
        "load_seconds": load_seconds,
        "load_bytes": load_bytes,
        "peak_bytes": peak_bytes,
        "seconds": seconds,
        "losses": losses,
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "gradient_bytes": gradient_bytes(trainee, todo[0]),
        "optimizer_bytes": optimizer_bytes(trainee),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    use_cores(task["cores"])
    print(json.dumps(measure(task)))
