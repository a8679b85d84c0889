"""A few statements, each timed, in a process of its own: see startup.py.

    python benchmarks/startup_task.py '{"statements": ["import torch", "import gptlab"]}'

Prints the seconds of each.
"""

import json
import sys
import time


def timed(statements: list[str]) -> list[float]:
    """Seconds of each statement; later ones see the names of earlier ones."""
    names: dict[str, object] = {}
    seconds = []
    for statement in statements:
        start = time.perf_counter()
        exec(statement, names)
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    print(json.dumps({"seconds": timed(json.loads(sys.argv[1])["statements"])}))
