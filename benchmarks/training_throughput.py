"""Training tokens per second on this machine: gptlab beside its peers, in one go.

    python benchmarks/training_throughput.py [--nanogpt FOLDER]

Every contender trains the same architecture, that of 2019, on the same random tokens with the same
step: forward, backward, gradient clipping, AdamW. They take turns, round by round, so that a
machine whose speed drifts is as fair to one as to another; the median round counts. Hugging Face
transformers comes with the extra `bench`; nanoGPT takes part if a checkout of it is given. The
result is printed and written to benchmarks/results/training_throughput-DEVICE.json.
"""

import argparse
import contextlib
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from gptlab import GPT, ModelConfig

Step = Callable[[torch.Tensor, torch.Tensor], None]
LossOf = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def training_step(model: torch.nn.Module, loss_of: LossOf, context) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        with context():
            loss = loss_of(model, inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def contenders(shape: argparse.Namespace, device: str) -> dict[str, Step]:
    def autocast():
        return torch.autocast(torch.device(device).type, torch.bfloat16)

    config = ModelConfig(
        vocab_size=shape.vocab_size,
        seq_len=shape.seq_len,
        embed_dim=shape.embed_dim,
        num_layers=shape.num_layers,
        n_heads=shape.n_heads,
        positions="learned",
        activation="gelu",
        bias=True,
        qk_norm=False,
        tie_embeddings=True,
    )
    result = {}
    for name, context in (("fp32", contextlib.nullcontext), ("bf16", autocast)):
        result[f"gptlab {name}"] = training_step(
            GPT(config, seed=0).to(device), lambda m, x, y: mean_loss(m(x), y), context
        )
        if importlib.util.find_spec("transformers"):
            result[f"transformers GPT-2 {name}"] = training_step(
                transformers_gpt2(config).to(device),
                lambda m, x, y: mean_loss(m(x).logits, y),
                context,
            )
        if shape.nanogpt:
            result[f"nanoGPT {name}"] = training_step(
                nanogpt(shape.nanogpt, config).to(device), lambda m, x, y: m(x, y)[1], context
            )
    return result


def transformers_gpt2(config: ModelConfig) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.seq_len,
            n_embd=config.embed_dim,
            n_layer=config.num_layers,
            n_head=config.n_heads,
            activation_function="gelu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    )


def nanogpt(folder: str, config: ModelConfig) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(folder, "model.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.GPT(
        module.GPTConfig(
            block_size=config.seq_len,
            vocab_size=config.vocab_size,
            n_layer=config.num_layers,
            n_head=config.n_heads,
            n_embd=config.embed_dim,
            bias=True,
        )
    )


def measure(steps: dict[str, Step], shape: argparse.Namespace, device: str) -> dict[str, float]:
    size = (shape.batch_size, shape.seq_len)
    inputs, targets = (torch.randint(shape.vocab_size, size, device=device) for _ in range(2))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(shape.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(shape.steps):
                step(inputs, targets)
            if device == "cuda":
                torch.cuda.synchronize()
            if round_number:  # the first one warms up
                seconds[name].append((time.perf_counter() - start) / shape.steps)
    tokens = shape.batch_size * shape.seq_len
    return {name: tokens / statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nanogpt", help="folder with nanoGPT's model.py")
    for name, default in (
        ("vocab_size", 8192),
        ("seq_len", 256),
        ("embed_dim", 384),
        ("num_layers", 6),
        ("n_heads", 6),
        ("batch_size", 16),
        ("steps", 2),
        ("rounds", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    shape = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    speeds = measure(contenders(shape, device), shape, device)
    for name, speed in speeds.items():
        print(f"{name:28} {speed:10,.0f} tokens/s")
    processor = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    result = {
        "benchmark": "training_throughput",
        "tokens_per_second": {name: round(speed) for name, speed in speeds.items()},
        "shape": {key: value for key, value in vars(shape).items() if key != "nanogpt"},
        "device": processor or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path = Path(__file__).parent / "results" / f"training_throughput-{device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
