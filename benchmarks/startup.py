"""What one waits for before anything happens: imports, --help, and the first step of a run.

    python benchmarks/startup.py [--quick] [--skip imports help first_step]

Imports: in fresh processes that have imported torch, the seconds of importing a library, and then
of touching its model and its training, which it imports no sooner; gptlab and Hugging Face
transformers take turns, round by round.

--help: from the start of the command to its end.

First step: from the start of `gptlab-train`, with nothing named, to its plan (which it makes from
steps of trial) and to the first line of its metrics. Once as it is by default, once without
torch.compile, and once with it; a run with cold compile caches begins with an empty folder of
them, and one with warm caches comes after it.

transformers comes with the extra `bench`. The result is printed and written to
benchmarks/results/startup-DEVICE.json; --quick takes a tiny model and one round, and is printed
alone.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import available_cores, machine, run_task, summary
from report import publish, show

from gptlab.training.metrics import FILE, read_metrics

ROOT = Path(__file__).parents[1]
TASK = Path(__file__).with_name("startup_task.py")
COMMAND = str(Path(sys.executable).with_name("gptlab-train"))
# A library's names for a model and for training one, touched one after the other.
IMPORTS: Mapping[str, Sequence[str]] = {
    "gptlab": ("GPT", "train"),
    "transformers": ("GPT2LMHeadModel", "Trainer"),
}
# How the run is compiled, and whether what it compiled lies in a cache.
FIRST_STEPS = (("auto", "cold"), ("auto", "warm"), ("off", ""), ("on", "cold"), ("on", "warm"))
QUICK_STEPS = (("auto", "cold"), ("auto", "warm"))
PARTS = ("imports", "help", "first_step")
_POLL_SECONDS = 0.02


def imports(rounds: int) -> dict[str, Any]:
    """Seconds of importing torch, and, after it, of what IMPORTS has."""
    found: dict[str, list[list[float]]] = {library: [] for library in IMPORTS}
    for number in range(rounds + 1):
        for library, names in IMPORTS.items():
            statements = ["import torch", f"import {library}"]
            statements += [f"{library}.{name}" for name in names]
            run = run_task(TASK, {"statements": statements}, cores=available_cores())
            if number:  # the first round finds the files
                found[library].append(run.result["seconds"])
    return {
        "torch_seconds": summary(seconds[0] for runs in found.values() for seconds in runs),
        "libraries": [
            {
                "library": library,
                "import_seconds": summary(seconds[1] for seconds in runs),
                "names": [
                    {"name": name, "seconds": summary(seconds[position] for seconds in runs)}
                    for position, name in enumerate(IMPORTS[library], start=2)
                ],
            }
            for library, runs in found.items()
        ],
    }


def help_seconds(rounds: int) -> dict[str, float]:
    """Seconds of `gptlab-train --help`."""
    seconds = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        subprocess.run([COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
        if number:
            seconds.append(time.perf_counter() - start)
    return summary(seconds)


def first_steps(
    runs: Sequence[tuple[str, str]], rounds: int, flags: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Seconds to the plan and to the first step of each of `runs`."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as caches:
            for mode, state in runs:
                cache = {"TORCHINDUCTOR_CACHE_DIR": str(Path(caches, mode))}
                for name, seconds in first_step(("--compile", mode, *flags), cache).items():
                    found[mode, state][name].append(seconds)
                plan, step = (values[-1] for values in found[mode, state].values())
                print(f"{mode} {state}: plan {plan:.1f} s, first step {step:.1f} s", flush=True)
    return [
        {"compile": mode, "caches": state}
        | {name: summary(seconds) for name, seconds in values.items()}
        for (mode, state), values in found.items()
    ]


def first_step(flags: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, float]:
    """Start a run, and end it once its first step is in its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        log, plan = Path(folder, "log"), 0.0
        command = [COMMAND, "--runs_dir", f"{folder}/runs", "--log_every", "1", *flags]
        with log.open("w") as output:
            start = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while not any(read_metrics(file.parent) for file in Path(folder).rglob(FILE)):
                    if process.poll() is not None:
                        raise RuntimeError(f"{command} has ended:\n{log.read_text()}")
                    if not plan and "\nsteps " in log.read_text():
                        plan = time.perf_counter() - start
                    time.sleep(_POLL_SECONDS)
                step = time.perf_counter() - start
            finally:
                # The compiler's processes too.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return {"plan_seconds": plan or step, "first_step_seconds": step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a tiny model")
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[])
    parser.add_argument("--rounds", type=int, default=7, help="of imports and --help")
    parser.add_argument("--step_rounds", type=int, default=3, help="of first steps")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    parts = {
        "imports": lambda: imports(rounds),
        "help": lambda: help_seconds(rounds),
        "first_step": lambda: (
            first_steps(QUICK_STEPS, 1, ("--preset", "tiny"))
            if arguments.quick
            else first_steps(FIRST_STEPS, arguments.step_rounds, ())
        ),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {
        "benchmark": "startup",
        "machine": machine(["gptlab", "torch", "transformers"], cores=available_cores()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }
    result |= {name: part() for name, part in parts.items() if name not in arguments.skip}
    if arguments.quick:
        show(result)
    else:
        publish(f"startup-{device}", result)


if __name__ == "__main__":
    main()
