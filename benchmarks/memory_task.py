"""A few training steps of one library, in a process of its own: see memory.py.

    python benchmarks/memory_task.py '{"library": "gptlab", "precision": "bf16", "cores": 2, ...}'

Prints the seconds of each step, and the memory that the imports took; on a GPU, the most that
PyTorch has had allocated on it, too.
"""

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import use_cores
from torch import Tensor, nn

LossOf = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Trainee:
    """A model, the loss of a batch, and what moves the weights."""

    model: nn.Module
    loss_of: LossOf
    optimizers: Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class Work:
    """What every library is to do."""

    shape: dict[str, int]
    precision: str
    device: torch.device
    settings: dict[str, Any]
    """What gptlab is told beside it."""
    nanogpt: str | None
    """Folder of its model.py."""

    def autocast(self) -> torch.autocast:
        """Context for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def gptlab(work: Work) -> Callable[[], Trainee]:
    """What gptlab-train runs."""
    from gptlab.config import LossConfig, ModelConfig, OptimizerConfig
    from gptlab.model import GPT
    from gptlab.training.loader import DeviceBatch
    from gptlab.training.objective import Objective
    from gptlab.training.optimizers import make_optimizers
    from gptlab.training.precision import Arithmetic

    names = ("vocab_size", "seq_len", "embed_dim", "num_layers", "n_heads")
    config = ModelConfig(
        **{name: work.shape[name] for name in names},
        positions="learned",
        activation="gelu",
        bias=True,
        qk_norm=False,
        tie_embeddings=True,
    )

    def build() -> Trainee:
        model = GPT(config, seed=0).to(work.device)
        model.activation_checkpointing = work.settings.get("activation_checkpointing", False)
        objective = Objective(
            model,
            LossConfig(loss_chunk=work.settings.get("loss_chunk")),
            arithmetic=Arithmetic(work.device, work.precision),
        )
        forward = torch.compile(objective) if work.settings.get("compile") else objective
        products = torch.bfloat16 if work.precision == "bf16" else torch.float32
        optimizers = make_optimizers(model, OptimizerConfig(), products=products)

        def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
            sums = forward(DeviceBatch(inputs, targets))
            return sums.objective / sums.weight

        return Trainee(model, loss_of, optimizers)

    return build


def transformers(work: Work) -> Callable[[], Trainee]:
    """Hugging Face's GPT-2 with its own loss, as their Trainer calls it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=work.shape["vocab_size"],
        n_positions=work.shape["seq_len"],
        n_embd=work.shape["embed_dim"],
        n_layer=work.shape["num_layers"],
        n_head=work.shape["n_heads"],
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )

    def build() -> Trainee:
        model = GPT2LMHeadModel(config).to(work.device).train()

        def loss_of(inputs: Tensor, _targets: Tensor) -> Tensor:
            with work.autocast():
                # It moves the labels by one by itself, which costs it one target a row.
                return model(inputs, labels=inputs).loss

        return Trainee(model, loss_of, adamw(model))

    return build


def nanogpt(work: Work) -> Callable[[], Trainee]:
    """The model of nanoGPT with the loss that it returns."""
    assert work.nanogpt is not None
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(work.nanogpt, "model.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.GPTConfig(
        block_size=work.shape["seq_len"],
        vocab_size=work.shape["vocab_size"],
        n_layer=work.shape["num_layers"],
        n_head=work.shape["n_heads"],
        n_embd=work.shape["embed_dim"],
        bias=True,
    )

    def build() -> Trainee:
        model = module.GPT(config).to(work.device)

        def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
            with work.autocast():
                return model(inputs, targets)[1]

        return Trainee(model, loss_of, adamw(model))

    return build


LIBRARIES = {"gptlab": gptlab, "transformers": transformers, "nanogpt": nanogpt}


def adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)]


def step(trainee: Trainee, inputs: Tensor, targets: Tensor) -> float:
    loss = trainee.loss_of(inputs, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainee.model.parameters(), 1.0)
    for optimizer in trainee.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def train(library: str, work: Work, steps: int) -> dict[str, Any]:
    build = LIBRARIES[library](work)
    library_bytes = resident_bytes()
    trainee = build()
    size = (work.shape["batch_size"], work.shape["seq_len"])
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (
        torch.randint(work.shape["vocab_size"], size, generator=generator).to(work.device)
        for _ in range(2)
    )
    seconds, losses = [], []
    for _ in range(steps):
        start = time.perf_counter()
        losses.append(step(trainee, inputs, targets))
        if work.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    is_cuda = work.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_cuda else "cpu",
        "library_bytes": library_bytes,
        "device_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
        "parameters": sum(parameter.numel() for parameter in trainee.model.parameters()),
        "seconds": seconds,
        "losses": losses,
    }


def resident_bytes() -> int:
    """The most memory that this process has had."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["cores"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = Work(task["shape"], task["precision"], device, task["settings"], task["nanogpt"])
    print(json.dumps(train(task["library"], work, task["steps"])))


if __name__ == "__main__":
    main()
