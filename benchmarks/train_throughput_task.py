"""A library that trains step by step when it is told to, in a process of its own.

    echo 3 | python benchmarks/train_throughput_task.py '{"library": "gptlab", ...}'

Prints what the first step took, which compiles, and then, for each number on its standard input,
makes that many steps and prints the seconds of one.
"""

import json
import sys
import time

import torch
from measure import use_cores
from trainees import LIBRARIES, random_batch, resident_bytes, step, work_of

_WARM_UP = 1


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["cores"])
    work = work_of(task)
    is_cuda = work.device.type == "cuda"
    trainee = LIBRARIES[task["library"]](work)()
    inputs, targets = random_batch(work)

    def steps(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            loss = step(trainee, inputs, targets)
        loss.item()
        return (time.perf_counter() - start) / number

    start = time.perf_counter()
    steps(1)
    first = time.perf_counter() - start
    steps(_WARM_UP)
    device = torch.cuda.get_device_name() if is_cuda else "cpu"
    print(json.dumps({"device": device, "first_step_seconds": first}), flush=True)
    for line in sys.stdin:
        result = {"seconds": steps(int(line)), "resident_bytes": resident_bytes()}
        if is_cuda:
            result["device_bytes"] = torch.cuda.max_memory_allocated()
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
