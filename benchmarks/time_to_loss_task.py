"""One training run on a text by character, in a process of its own: see time_to_loss.py.

Prints the loss on all of the last tenth of the text, and the tokens and the seconds of training.
"""

import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import use_cores

_HELD_OUT = 0.1


def gptlab(task: dict[str, Any]) -> dict[str, Any]:
    """The recipe, by gptlab.train; the time is that of its own records, evaluations left out."""
    import tomllib

    import gptlab as library

    tokenizer = Path("tokenizer")
    library.train_bpe([task["text"]], vocab_size=260).save(tokenizer)
    recipe = tomllib.loads(Path(task["recipe"]).read_text())["train"]
    settings = {
        **recipe,
        "train_data": task["text"],
        "dev_size": _HELD_OUT,
        "tokenizer": str(tokenizer),
        "eval_strategy": "no",
        "log_every": 10,
        "sample_length": 0,
        "quiet": True,
        **task["settings"],
    }
    run = library.train(library.TrainConfig(**settings))
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    seconds, before = 0.0, 0
    for record in map(json.loads, lines):
        if record["split"] == "train":
            seconds += (record["tokens"] - before) / record["tokens_per_second"]
            before = record["tokens"]
    return {"loss": run.eval_loss, "tokens": before, "seconds": round(seconds, 2)}


def nanogpt(task: dict[str, Any]) -> dict[str, Any]:
    """NanoGPT's model, optimizer, schedule and batches, as its README says for a CPU."""
    spec = importlib.util.spec_from_file_location("nanogpt", Path(task["nanogpt"], "model.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(1337 + task["seed"])
    text = Path(task["text"]).read_text()
    ids = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([ids[character] for character in text])
    border = int(len(tokens) * (1 - _HELD_OUT))
    train, held_out = tokens[:border], tokens[border:]
    T, B, rate, steps = 64, 12, 1e-3, task["steps"]
    model = module.GPT(
        module.GPTConfig(
            block_size=T, vocab_size=len(ids), n_layer=4, n_head=4, n_embd=128, dropout=0.0,
            bias=False,
        )
    )  # fmt: skip
    optimizer = model.configure_optimizers(0.1, rate, (0.9, 0.99), "cpu")
    seconds, reached = 0.0, None
    for step in range(steps):
        start = time.perf_counter()
        warm_up, decay = min(1.0, (step + 1) / 101), 1.0
        if step >= 100:
            decay = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100)))
        for group in optimizer.param_groups:
            group["lr"] = rate * warm_up * decay
        places = torch.randint(len(train) - T, (B,))
        x = torch.stack([train[place : place + T] for place in places])
        y = torch.stack([train[place + 1 : place + 1 + T] for place in places])
        loss = model(x, y)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - start
        if (
            reached is None
            and step % 100 == 99
            and held_out_loss(model, held_out, T) <= task["target"]
        ):
            reached = round(seconds, 2)
    return {
        "loss": held_out_loss(model, held_out, T),
        "tokens": steps * B * T,
        "seconds": round(seconds, 2),
        "seconds_to_target": reached,
    }


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, tokens: torch.Tensor, T: int) -> float:
    """Nats a character over all windows, end to end."""
    number = (len(tokens) - 1) // T
    x, y = (tokens[shift : shift + number * T].view(number, T) for shift in (0, 1))
    parts = [
        model(x[i : i + 64], y[i : i + 64])[1] * len(x[i : i + 64]) for i in range(0, number, 64)
    ]
    return float(sum(parts) / number)


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["cores"])
    print(json.dumps({"gptlab": gptlab, "nanogpt": nanogpt}[task["library"]](task)))


if __name__ == "__main__":
    main()
