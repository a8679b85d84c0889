"""A model loaded in a process of its own: see loading.py.

    python benchmarks/loading_task.py '{"library": "gptlab", "folder": "...", "warm_up": "..."}'

Prints the seconds, and the most memory above what the process had before, mapped files among it.
"""

import json
import sys
import time
from typing import Any

import torch
from measure import peak_resident, restart_peak, use_cores
from peers import hush_transformers
from torch import nn


def gptlab(folder: str) -> nn.Module:
    import gptlab

    model, _ = gptlab.load(folder)
    return model


def transformers(folder: str) -> nn.Module:
    """The model and its tokenizer, which is what gptlab.load gives."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(folder)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    return model


def transformers_model(folder: str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    return model


LIBRARIES = {
    "gptlab": gptlab,
    "transformers": transformers,
    "transformers, model alone": transformers_model,
}


def look_at(model: nn.Module) -> float:
    """Read every weight once, which is when a mapped file comes into memory; their sum."""
    with torch.no_grad():
        return float(sum(tensor.sum(dtype=torch.float32) for tensor in model.parameters()))


def measure(task: dict[str, Any]) -> dict[str, Any]:
    load = LIBRARIES[task["library"]]
    if load is not gptlab:
        hush_transformers()
    # What is imported when it is first used is no part of loading.
    look_at(load(task["warm_up"]))
    before = restart_peak()
    start = time.perf_counter()
    model = load(task["folder"])
    loaded = time.perf_counter() - start
    total = look_at(model)
    read = time.perf_counter() - start
    return {
        "seconds": loaded,
        "read_seconds": read,
        "peak_bytes": peak_resident() - before,
        "sum": total,
        "dtypes": sorted({str(tensor.dtype) for tensor in model.parameters()}),
    }


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    use_cores(task["cores"])
    print(json.dumps(measure(task)))
