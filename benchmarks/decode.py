"""Speed of generation on this machine: gptlab beside its peers, in one go.

    python benchmarks/decode.py [--quick] [--llama_bench PROGRAM] [--device cuda]
        [--parts batch1 ...] [--only "gptlab, bf16" ...]

GPT-2 of 124M parameters, or one of about 10M, with random weights continues 16 random tokens by
256, greedily, and does not stop before. Each contender lives in a process of its own, and they take
turns, round by round; the median round counts. A call is the whole of `generate_ids` of gptlab or
`generate` of Hugging Face transformers, the prompt read with it; llama-bench of llama.cpp reads the
prompt before it looks at the clock. What compiles does so in the first call, which is on its own.
Of the prompt of 512 tokens, a call gives the next token, or its logits.

The share of the bandwidth is bytes of weights that a step of all rows reads x steps a second, over
the fastest pass through much memory of the same rounds: torch.sum, or compiled products of bf16
matrices and a vector. Beyond reading is the time of a step less what these bytes take at that
speed; what fits the processor's cache comes faster, and may make it negative.

transformers and gguf come with the extra `bench`; llama.cpp takes part if its program is given. One
that fails is so recorded, and ends nothing else. The result is printed and written to
benchmarks/results/decode-DEVICE.json, where --parts replaces these parts alone. With --only or
--new_tokens it is printed alone, and so it is with --quick, which takes a tiny model and one round.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from decode_llama import LlamaBench
from decode_parts import BANDWIDTH, PARTS, SMALL, TINY, Contender, Part
from decode_start import first_tokens
from measure import available_cores, machine, summary
from report import publish, show
from worker import Worker

TASK = Path(__file__).with_name("decode_task.py")
_BANDWIDTH_BYTES = 2**30
_PASSES = 10
FIRST_TOKEN = "first_token"


def measure(part: Part, contenders: Sequence[Contender], options: argparse.Namespace) -> Any:
    """One part: what each contender, and the memory, came to."""
    print(f"{part.title}: {dict(part.shape)}", flush=True)
    seconds: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    workers: dict[str, Worker | LlamaBench] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(contender: Contender) -> None:
            worker = make_worker(contender, part, options, folder)
            workers[contender.name] = stack.enter_context(closing(worker))

        def turn(contender: Contender) -> None:
            number = _PASSES if contender in BANDWIDTH else 1
            fresh = workers[contender.name].calls(number)
            seconds.setdefault(contender.name, []).extend(fresh)
            print(f"  {contender.name}: {min(fresh):.4f} s", flush=True)

        for step in [start, *[turn] * options.rounds]:
            for contender in contenders:
                if contender.name in failed:
                    continue
                try:
                    step(contender)
                except (RuntimeError, OSError, ImportError) as error:
                    failed[contender.name] = str(error)
                    print(f"  {contender.name}: failed: {error}", flush=True)
    ready = {name: worker.ready for name, worker in workers.items()}
    return figures(part, contenders, seconds, ready, failed)


def make_worker(
    contender: Contender, part: Part, options: argparse.Namespace, folder: Path
) -> Worker | LlamaBench:
    task = {
        "library": contender.library,
        "precision": contender.precision,
        "settings": dict(contender.settings),
        "shape": dict(part.shape),
        "batch": part.batch,
        "prompt_tokens": part.prompt_tokens,
        "new_tokens": part.new_tokens,
        "device": options.device,
        "cores": available_cores(),
    }
    if contender in BANDWIDTH:
        task["settings"] = {"bytes": _BANDWIDTH_BYTES // (8 if options.quick else 1)}
    if contender.library == "llama.cpp":
        return LlamaBench(options.llama_bench, task, folder)
    # The memory at its best: pages of 4 KiB are slower to find.
    environment = {"THP_MEM_ALLOC_ENABLE": "1"} if contender in BANDWIDTH else {}
    return Worker(TASK, task, environment=environment)


def figures(
    part: Part,
    contenders: Sequence[Contender],
    seconds: Mapping[str, list[float]],
    ready: Mapping[str, dict[str, Any]],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """A part's result: tokens a second, and what follows from them."""
    names = [contender.name for contender in BANDWIDTH if contender.name in seconds]
    passes = {
        name: [ready[name]["bytes_read"] / taken for taken in seconds[name]] for name in names
    }
    bandwidth = max((rate for rates in passes.values() for rate in rates), default=None)
    tokens = part.batch * (part.prompt_tokens if part.kind == "prefill" else part.new_tokens)
    rows = []
    for contender in contenders:
        name = contender.name
        if contender in BANDWIDTH:
            continue
        if name in failed:
            rows.append({"name": name, "failed": failed[name]})
            continue
        row = {
            "name": name,
            "tokens_per_second": summary(tokens / taken for taken in seconds[name]),
            "call_seconds": summary(seconds[name]),
            **ready[name],
        }
        if bandwidth:
            step = row["call_seconds"]["median"] / part.new_tokens
            reading = row["bytes_read"] / bandwidth
            row |= {"share_of_bandwidth": reading / step, "beyond_reading_seconds": step - reading}
        rows.append(row)
    return {
        "title": part.title,
        "kind": part.kind,
        "shape": dict(part.shape),
        "batch": part.batch,
        "prompt_tokens": part.prompt_tokens,
        "new_tokens": part.new_tokens,
        "gb_per_second": {
            name: summary(rate / 1e9 for rate in rates) for name, rates in passes.items()
        },
        "contenders": rows,
    }


def chosen(part: Part, options: argparse.Namespace) -> list[Contender]:
    """Who takes part; a prompt does not wait for memory, so there it is not looked at."""
    contenders = [
        contender
        for contender in (part.on_gpu if options.device == "cuda" else part.on_cpu)
        if (contender.library != "llama.cpp" or options.llama_bench)
        and (not options.only or contender.name.startswith(tuple(options.only)))
    ]
    return contenders if part.kind == "prefill" else [*BANDWIDTH, *contenders]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a tiny model")
    parser.add_argument("--llama_bench", metavar="PROGRAM", help="llama.cpp's llama-bench")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, FIRST_TOKEN])
    parser.add_argument("--only", nargs="+", help="beginnings of names of contenders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new_tokens", type=int, help="in place of 256")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.quick:
        options.rounds = 1
    if not options.llama_bench and options.device == "cpu":
        print("llama.cpp is left out; name its --llama_bench to have it", flush=True)
    result: dict[str, Any] = {
        "benchmark": "decode",
        "machine": machine(
            [package for package in ("torch", "transformers", "gguf") if find_spec(package)],
            cores=available_cores(),
        ),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
    }
    fresh = run(options)
    if options.quick or options.only or options.new_tokens:
        show(result | fresh)
    else:
        publish(f"decode-{options.device}", merged(former(options.device), fresh) | result)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for: `parts`, and `first_token`."""
    names = options.parts or [*PARTS, FIRST_TOKEN]
    found: dict[str, Any] = {"parts": []}
    for part in [PARTS[name] for name in names if name != FIRST_TOKEN]:
        is_prefill = part.kind == "prefill"
        changed = replace(
            part,
            shape=TINY if options.quick else part.shape,
            new_tokens=part.new_tokens if is_prefill else options.new_tokens or part.new_tokens,
        )
        found["parts"].append(measure(changed, chosen(changed, options), options))
    if FIRST_TOKEN in names:
        shape = TINY if options.quick else SMALL
        found[FIRST_TOKEN] = first_tokens(shape, device=options.device, rounds=options.rounds)
    return found


def former(device: str) -> dict[str, Any]:
    """What an earlier run has written."""
    path = Path(__file__).parent / "results" / f"decode-{device}.json"
    return json.loads(path.read_text()) if path.exists() else {"parts": []}


def merged(old: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Both results; where both have something, the fresh one's."""
    parts = {part["title"]: part for part in (*old["parts"], *fresh["parts"])}
    ordered = [parts[part.title] for part in PARTS.values() if part.title in parts]
    return {**old, **fresh, "parts": ordered}


if __name__ == "__main__":
    main()
