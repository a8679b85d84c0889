"""How soon a loss is reached: gptlab's recipe for Shakespeare by character beside nanoGPT.

    python benchmarks/time_to_loss.py TEXT --nanogpt FOLDER [--quick]
    python benchmarks/time_to_loss.py TEXT --ablation [--seeds 3]

TEXT is tinyshakespeare, of which both hold out the last tenth. nanoGPT trains as its README says
for a CPU: 4 layers, width 128, 64 characters, 12 of these a step, 2,000 steps. gptlab trains the
recipe recipes/shakespeare-cpu.toml with as many tokens, and once with a tenth of them. Each is a
process of its own, and they take turns. What counts is the loss on all of the held-out text, cut
into windows, and the time of the training steps, without evaluation, start-up or compiling.

`--ablation` leaves out one part of the recipe after the other, each with several seeds, of a run of
170 steps. The result is printed and written to benchmarks/results/; --quick makes one round of a
tenth of the tokens each, and is printed alone.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import available_cores, machine
from report import publish, show

TASK = Path(__file__).with_name("time_to_loss_task.py")
RECIPE = Path(__file__).parents[1] / "recipes" / "shakespeare-cpu.toml"
TARGET = 1.88
NANOGPT_STEPS, STEPS, FEW_STEPS = 2000, 1000, 170
ABLATION_STEPS = 170
# What is changed of the recipe; its learning rate for AdamW is the best of 1, 3 and 6 thousandths.
ADAMW = {"optimizer": "adamw", "learning_rate": 3e-3}
GPT2 = {"positions": "learned", "activation": "gelu", "qk_norm": False, "tie_embeddings": True}
COSINE = {"schedule": "cosine", "min_learning_rate": None}
ABLATION: Mapping[str, Mapping[str, Any]] = {
    "the recipe": {},
    "learned positions, not rotary": {"positions": "learned"},
    "no QK norm": {"qk_norm": False},
    "GELU, not squared ReLU": {"activation": "gelu"},
    "SwiGLU of the same size": {"activation": "swiglu", "expansion_factor": 8 / 3},
    "RMSNorm, not LayerNorm": {"norm": "rmsnorm"},
    "embeddings tied to the head": {"tie_embeddings": True},
    "output projections begin at zero": {"residual_init": "zero"},
    "cosine to a tenth, not linear to zero": COSINE,
    "AdamW, not Muon": ADAMW,
    "all of 2019: GPT-2's parts, AdamW, cosine": {**GPT2, **ADAMW, **COSINE},
}
# Student's t, 95% in both directions, by degrees of freedom.
T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def run(library: str, text: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train in a fresh process; the loss at the end, and the tokens and seconds that it took."""
    task = {"library": library, "text": str(text), "cores": available_cores(), **settings}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(TASK), json.dumps(task)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def race(text: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Let the contenders take turns."""
    share = 10 if options.quick else 1
    contenders: list[tuple[str, str, dict[str, Any]]] = [
        (
            f"nanoGPT, {NANOGPT_STEPS // share:,} steps",
            "nanogpt",
            {"nanogpt": options.nanogpt, "steps": NANOGPT_STEPS // share, "target": TARGET},
        ),
        (f"gptlab, {FEW_STEPS} steps", "gptlab", gptlab({"max_steps": FEW_STEPS})),
        (f"gptlab, {STEPS // share:,} steps", "gptlab", gptlab({"max_steps": STEPS // share})),
    ]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in contenders}
    for number in range(options.rounds):
        for name, library, settings in contenders:
            if library == "gptlab":
                settings["settings"]["seed"] = number
            answer = run(library, text, settings | {"seed": number})
            runs[name].append(answer)
            print(f"  {name}: {answer}", flush=True)
    rows = []
    for name, answers in runs.items():
        row = {"run": name}
        for key in ("tokens", "seconds", "loss", "seconds_to_target"):
            values = [answer[key] for answer in answers if answer.get(key) is not None]
            if values:
                row[key] = round(statistics.median(values), 4)
        rows.append(row)
    return {"target": TARGET, "rounds": options.rounds, "rows": rows}


def gptlab(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {"recipe": str(RECIPE), "settings": dict(changes)}


def ablate(text: Path, seeds: int) -> dict[str, Any]:
    """The loss without each part, and how much worse it is than the recipe with the same seed."""
    losses: dict[str, list[float]] = {}
    for name, changes in ABLATION.items():
        for seed in range(seeds):
            settings = gptlab({"max_steps": ABLATION_STEPS, "seed": seed, **changes})
            losses.setdefault(name, []).append(run("gptlab", text, settings)["loss"])
        print(f"  {name}: {losses[name]}", flush=True)
    rows = []
    for name, values in losses.items():
        row = {"run": name, "loss": round(statistics.mean(values), 4)}
        if name != "the recipe":
            pairs = zip(values, losses["the recipe"], strict=True)
            mean, half = interval([worse - base for worse, base in pairs])
            row |= {"worse by": f"{mean:+.4f}", "95% interval": f"± {half:.4f}"}
        rows.append(row)
    return {"steps": ABLATION_STEPS, "seeds": seeds, "losses": losses, "rows": rows}


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences, and half the width of its 95% interval."""
    deviation = statistics.stdev(differences) if len(differences) > 1 else math.nan
    half = T_95.get(len(differences) - 1, 2.0) * deviation / math.sqrt(len(differences))
    return statistics.mean(differences), half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path, help="tinyshakespeare")
    parser.add_argument("--nanogpt", metavar="FOLDER", help="with nanoGPT's model.py")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, printed alone")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    text = options.text.resolve()
    if options.nanogpt:
        options.nanogpt = str(Path(options.nanogpt).resolve())
    elif not options.ablation:
        parser.error("--nanogpt names a checkout of nanoGPT")
    if options.quick:
        options.rounds = options.seeds = 1
    found = ablate(text, options.seeds) if options.ablation else race(text, options)
    name = "ablation" if options.ablation else "time_to_loss"
    result = {"benchmark": name, "machine": machine(["torch"], cores=available_cores()), **found}
    if options.quick:
        show(result)
    else:
        publish(f"{name}-cpu", result)


if __name__ == "__main__":
    main()
