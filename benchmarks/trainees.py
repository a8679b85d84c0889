"""Libraries that train the same model on the same batch with the same step, for the benchmarks."""

import importlib.util
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers import gpt2_config
from torch import Tensor, nn

GPT2 = {
    "positions": "learned",
    "activation": "gelu",
    "bias": True,
    "qk_norm": False,
    "tie_embeddings": True,
}
"""The arrangement of 2019, in gptlab's settings."""

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
    """`compile`: whether to use torch.compile. For gptlab also what it is told beside the shape,
    and `arrangement`: "2019" for GPT-2's, else its own."""
    nanogpt: str | None
    """Folder of its model.py."""

    def autocast(self) -> torch.autocast:
        """Context for a forward pass."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32")


def gptlab(work: Work) -> Callable[[], Trainee]:
    """What gptlab-train runs."""
    from gptlab.config import LossConfig, ModelConfig, OptimizerConfig
    from gptlab.model import GPT
    from gptlab.training.allocation import keep_freed_memory, prefer_huge_pages
    from gptlab.training.loader import DeviceBatch
    from gptlab.training.objective import Objective
    from gptlab.training.optimizers import make_optimizers
    from gptlab.training.precision import Arithmetic
    from gptlab.training.tuning import choose_attention

    prefer_huge_pages()
    if work.device.type == "cpu":
        keep_freed_memory()
    names = ("vocab_size", "seq_len", "embed_dim", "num_layers", "n_heads")
    parts = GPT2 if work.settings.get("arrangement") == "2019" else {}
    attention = work.settings.get("attention", "auto")
    config = ModelConfig(**{name: work.shape[name] for name in names}, attention=attention, **parts)
    arithmetic = Arithmetic(work.device, work.precision)

    def build() -> Trainee:
        model = GPT(config, seed=0).to(work.device)
        model.use_attention(choose_attention(config, arithmetic, rows=work.shape["batch_size"]))
        model.activation_checkpointing = work.settings.get("activation_checkpointing", False)
        objective = Objective(
            model,
            LossConfig(loss_chunk=work.settings.get("loss_chunk")),
            arithmetic=arithmetic,
        )
        forward = compiled(objective, work)
        products = torch.bfloat16 if work.precision == "bf16" else torch.float32
        optimizers = make_optimizers(model, OptimizerConfig(), products=products)

        def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
            sums = forward(DeviceBatch(inputs, targets))
            return sums.objective / sums.weight

        return Trainee(model, loss_of, optimizers)

    return build


def transformers(work: Work) -> Callable[[], Trainee]:
    """Hugging Face's GPT-2 with its own loss, as their Trainer calls it."""
    from transformers import GPT2LMHeadModel

    config = gpt2_config(
        work.shape,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )

    def build() -> Trainee:
        model = GPT2LMHeadModel(config).to(work.device).train()
        forward = compiled(model, work)

        def loss_of(inputs: Tensor, _targets: Tensor) -> Tensor:
            with work.autocast():
                # It moves the labels by one by itself, which costs it one target a row.
                return forward(inputs, labels=inputs).loss

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
        forward = compiled(model, work)

        def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
            with work.autocast():
                return forward(inputs, targets)[1]

        return Trainee(model, loss_of, adamw(model))

    return build


def compiled(module: nn.Module, work: Work) -> nn.Module:
    """`module`, compiled where the settings say so."""
    return torch.compile(module) if work.settings.get("compile") else module  # type: ignore[return-value]


LIBRARIES = {"gptlab": gptlab, "transformers": transformers, "nanogpt": nanogpt}


def adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)]


def step(trainee: Trainee, inputs: Tensor, targets: Tensor) -> Tensor:
    """One step of training; the loss before it, still on its device."""
    loss = trainee.loss_of(inputs, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainee.model.parameters(), 1.0)
    for optimizer in trainee.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def random_batch(work: Work) -> tuple[Tensor, Tensor]:
    """Inputs and targets, the same for every library."""
    size = (work.shape["batch_size"], work.shape["seq_len"])
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (
        torch.randint(work.shape["vocab_size"], size, generator=generator).to(work.device)
        for _ in range(2)
    )
    return inputs, targets


def work_of(task: dict[str, Any]) -> Work:
    """What a task in JSON asks for, on this machine's device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Work(task["shape"], task["precision"], device, task["settings"], task["nanogpt"])


def resident_bytes() -> int:
    """The most memory that this process has had."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest * (1 if sys.platform == "darwin" else 1024)
