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

_PAGE = 4096


def gptlab(folder: str, _warm_up: str) -> nn.Module:
    import gptlab

    model, _ = gptlab.load(folder)
    return model


def gptlab_model(folder: str, warm_up: str) -> nn.Module:
    """With the tokenizer of the tiny model, which takes nearly no time and memory."""
    import gptlab

    model, _ = gptlab.load(folder, tokenizer=warm_up)
    return model


def transformers(folder: str, warm_up: str) -> nn.Module:
    """The model and its tokenizer, which is what gptlab.load gives."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder)
    return transformers_model(folder, warm_up)


def transformers_model(folder: str, _warm_up: str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    return model


LIBRARIES = {
    "gptlab": gptlab,
    "gptlab, model alone": gptlab_model,
    "transformers": transformers,
    "transformers, model alone": transformers_model,
}


def touch(model: nn.Module) -> None:
    """Read a byte of every page of the weights, which brings those of a mapped file into memory."""
    for tensor in model.state_dict().values():
        # As plain bytes: a sum of the numbers may make a copy of them, of another type.
        storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        storage.numpy()[::_PAGE].max(initial=0)


def measure(task: dict[str, Any]) -> dict[str, Any]:
    load, warm_up = LIBRARIES[task["library"]], task["warm_up"]
    if task["library"].startswith("transformers"):
        hush_transformers()
    # What is imported when it is first used is no part of loading.
    touch(load(warm_up, warm_up))
    before = restart_peak()
    start = time.perf_counter()
    model = load(task["folder"], warm_up)
    loaded = time.perf_counter() - start
    touch(model)
    touched = time.perf_counter() - start
    return {
        "seconds": loaded,
        "touched_seconds": touched,
        "peak_bytes": peak_resident() - before,
        "dtypes": sorted({str(tensor.dtype) for tensor in model.parameters()}),
    }


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    use_cores(task["cores"])
    print(json.dumps(measure(task)))
