"""The encoder-decoder Transformer on this machine: gptlab beside torch.nn.Transformer, in one go.

    python benchmarks/transformer.py [--quick] [--parts small ...] [--rounds 5] [--steps 4]
        [--device cuda]

The peer is what PyTorch's tutorial on translation makes of torch.nn.Transformer: embeddings with
sinusoidal positions, an encoder and a decoder with the norms behind their parts, masks for the
future and for filling, a linear layer to logits. "gptlab" has the same parts and begins with the
same weights, so that the loss of both is the same before the first step, which the result tells.
"gptlab, its own parts" is the default: norms before the parts, rotary positions, QK norm, squared
ReLU. All have dropout of 0.1; torch.nn.Transformer has one more, in its feed-forward parts.

Training, of rows of one length: forward, backward, clipping, fused AdamW on the same random batch,
float32 but for the products where it says bf16, by torch.autocast. "gptlab" is the step that
gptlab-train makes, with its choice of attention and its way with memory; of pairs it does not
compile by itself. Both also take part compiled.

Training on pairs: the shipped ones, of their own lengths, and what leads from rows of ids to
batches counts too. gptlab puts those of like length together, and makes batches ahead in a thread;
the peer has a DataLoader that shuffles, and fills up. Only true tokens count, of sources and
targets with their ends.

Generation: greedy, 64 tokens for each of some sources. The peer encodes them once and runs the
decoder over all tokens so far for each new one, for torch.nn.Transformer has no cache. Random
weights have no favourites: in bf16, what is rounded otherwise soon becomes other tokens.

Each contender lives in a process of its own, and they take turns, round by round; the median round
counts. What compiles does so before. The result is printed and written to
benchmarks/results/transformer-DEVICE.json, where --parts replaces these parts alone; with --quick,
which takes a tiny model and one round, or with --only it is printed alone.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from measure import available_cores, machine, summary
from report import publish, show
from worker import Worker

TASK = Path(__file__).with_name("transformer_task.py")
GPTLAB, OWN, PEER = "gptlab", "gptlab, its own parts", "torch.nn.Transformer"
TINY = {"vocab_size": 1000, "embed_dim": 32, "num_layers": 1, "n_heads": 2}


@dataclass(frozen=True)
class Contender:
    """Who takes part, and how."""

    name: str
    library: str
    precision: str = "bf16"
    is_compiled: bool = False
    has_own_parts: bool = False


@dataclass(frozen=True)
class Part:
    """Something to do."""

    title: str
    kind: Literal["training", "pairs", "generation"]
    shape: Mapping[str, int]
    """Of the encoder as of the decoder."""
    batch_size: int
    contenders: Sequence[Contender]
    length: int = 48
    """Tokens of a source, and in training of a target."""
    new_tokens: int = 64


def training_in(precision: str, *, compiled: bool) -> list[Contender]:
    """Who trains in one precision."""
    own = Contender(f"{GPTLAB}, {precision}", "gptlab", precision)
    peer = Contender(f"{PEER}, {precision}", "torch", precision)
    parts = Contender(f"{OWN}, {precision}", "gptlab", precision, has_own_parts=True)
    return [own, peer, parts, *([as_compiled(own), as_compiled(peer)] if compiled else [])]


def generation_in(precision: str) -> list[Contender]:
    """Who generates in one precision; each length would be compiled anew for the peer."""
    own = Contender(f"{GPTLAB}, {precision}", "gptlab", precision)
    return [own, as_compiled(own), Contender(f"{PEER}, {precision}", "torch", precision)]


def as_compiled(contender: Contender) -> Contender:
    name = contender.name.replace(", ", ", compiled, ")
    return replace(contender, name=name, is_compiled=True)


_SMALL = {"vocab_size": 8000, "embed_dim": 128, "num_layers": 2, "n_heads": 4}
_MIDDLE = {"vocab_size": 8000, "embed_dim": 256, "num_layers": 4, "n_heads": 8}
_PLAIN = [*training_in("fp32", compiled=False), *training_in("bf16", compiled=False)]
_ALL = [*training_in("fp32", compiled=True), *training_in("bf16", compiled=True)]
_GENERATION = [*generation_in("fp32"), *generation_in("bf16")]
PARTS: Mapping[str, Part] = {
    "small": Part("Training, small", "training", _SMALL, 32, _PLAIN),
    "middle": Part("Training", "training", _MIDDLE, 32, _ALL),
    "pairs": Part("Training on pairs", "pairs", {**_MIDDLE, "vocab_size": 1000}, 128, _PLAIN),
    "batch1": Part("Generation from one source", "generation", _MIDDLE, 1, _GENERATION),
    "batch16": Part("Generation from 16 sources", "generation", _MIDDLE, 16, _GENERATION),
}


def measure(part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """One part: what each contender came to."""
    print(f"{part.title}: {dict(part.shape)}, batch {part.batch_size}", flush=True)
    workers: dict[str, Worker] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        for contender in chosen(part, options):
            worker = Worker(TASK, task_of(part, contender, options))
            workers[contender.name] = stack.enter_context(closing(worker))
            print(f"  {contender.name}: ready", flush=True)
        for _ in range(options.rounds):
            for name, worker in workers.items():
                answer = worker.ask(1 if part.kind == "generation" else options.steps)
                answers.setdefault(name, []).append(answer)
                print(f"  {name}: {rate(answer):,.0f} tokens/s", flush=True)
    rows = [
        {"name": name, "tokens_per_second": summary(map(rate, answers[name])), **worker.ready}
        for name, worker in workers.items()
    ]
    return {
        "title": part.title,
        "kind": part.kind,
        "shape": dict(part.shape),
        "batch_size": part.batch_size,
        "length": part.length,
        "new_tokens": part.new_tokens,
        "contenders": compared(rows),
    }


def rate(answer: Mapping[str, Any]) -> float:
    """Tokens a second."""
    return float(answer["tokens"] / answer["seconds"])


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows beside the peer's of their precision, uncompiled: speed, and the tokens generated."""
    by_name = {row["name"]: row for row in rows}
    found = []
    for row in rows:
        fresh = {name: value for name, value in row.items() if name != "ids"}
        peer = by_name.get(f"{PEER}, {row['name'].rpartition(', ')[2]}")
        if peer is not None:
            own, other = (entry["tokens_per_second"]["median"] for entry in (row, peer))
            fresh["times_peer"] = round(own / other, 3)
            if "ids" in row:
                fresh["same_tokens"] = same_share(row["ids"], peer["ids"])
        found.append(fresh)
    return found


def same_share(texts: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """The share of the tokens that come before the first other one of their text."""
    same = 0
    for text, other in zip(texts, others, strict=True):
        alike = [*(a == b for a, b in zip(text, other, strict=True)), False]
        same += alike.index(False)
    return round(same / sum(map(len, texts)), 4)


def task_of(part: Part, contender: Contender, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "kind": part.kind,
        "library": contender.library,
        "precision": contender.precision,
        "is_compiled": contender.is_compiled,
        "has_own_parts": contender.has_own_parts,
        "shape": dict(part.shape),
        "batch_size": part.batch_size,
        "length": part.length,
        "new_tokens": part.new_tokens,
        "device": options.device,
        "cores": available_cores(),
    }


def chosen(part: Part, options: argparse.Namespace) -> list[Contender]:
    """Who takes part; nobody is compiled for a quick look."""
    return [
        contender
        for contender in part.contenders
        if not (options.quick and contender.is_compiled)
        and (not options.only or contender.name.startswith(tuple(options.only)))
    ]


def former(device: str) -> list[dict[str, Any]]:
    """The parts of an earlier run."""
    path = Path(__file__).parent / "results" / f"transformer-{device}.json"
    return list(json.loads(path.read_text())["parts"]) if path.exists() else []


def merged(old: Sequence[dict[str, Any]], fresh: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both parts, in order; where both have one, the fresh one."""
    parts = {part["title"]: part for part in (*old, *fresh)}
    return [parts[part.title] for part in PARTS.values() if part.title in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a tiny model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", nargs="+", help="beginnings of names of contenders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of training, in a round")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = [PARTS[name] for name in PARTS if name in options.parts]
    if options.quick:
        options.rounds, options.steps = 1, 1
        parts = [replace(part, shape=TINY, batch_size=min(4, part.batch_size)) for part in parts]
    result: dict[str, Any] = {
        "benchmark": "transformer",
        "machine": machine(["torch"], cores=available_cores()),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "parts": [measure(part, options) for part in parts],
    }
    if options.quick or options.only:
        show(result)
    else:
        result["parts"] = merged(former(options.device), result["parts"])
        publish(f"transformer-{options.device}", result)


if __name__ == "__main__":
    main()
