"""A Transformer that trains or generates when it is told to, in a process of its own.

    echo 3 | python benchmarks/transformer_task.py '{"library": "gptlab", ...}'

Prints what its first step or call took, and what shows that it is the right one; then, for each
number on its standard input, makes so many of them and prints their tokens and their seconds.
"""

import json
import sys
import time
from typing import Any

import torch
from measure import use_cores
from translators import LIBRARIES, Translator, Work

# By then the memory of a step has found its place.
_WARM_UP_STEPS = 12


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task.pop("cores"))
    library, kind = task.pop("library"), task.pop("kind")
    work = Work(**{**task, "device": torch.device(task["device"])})
    translator: Translator = getattr(LIBRARIES[library], kind)(work)
    print(json.dumps(begin(translator, kind)), flush=True)
    for line in sys.stdin:
        tokens, seconds = timed(translator, int(line))
        print(json.dumps({"tokens": tokens, "seconds": seconds}), flush=True)


def begin(translator: Translator, kind: str) -> dict[str, Any]:
    """Do what is done once, or is slower at first."""
    before = None if kind == "generation" else translator.check()
    ready = {"first_seconds": round(timed(translator, 1)[1], 2)}
    if kind == "generation":
        return {**ready, "ids": translator.check()}
    timed(translator, _WARM_UP_STEPS - 1)
    return {**ready, "loss_before": before, "loss_after_steps": translator.check()}


def timed(translator: Translator, number: int) -> tuple[int, float]:
    """The tokens and the seconds of so many steps or calls."""
    start = time.perf_counter()
    tokens = sum(translator.work() for _ in range(number))
    translator.wait()
    return tokens, time.perf_counter() - start


if __name__ == "__main__":
    main()
