"""Libraries that fine-tune the same model on the same batches with the same step.

The modules that get adapters are the same in each: attention's projection of queries, keys and
values and its output projection, and both matrices of the feed-forward part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peers import hush_transformers
from torch import Tensor, nn
from trainees import Trainee

LORA_RANK, LORA_ALPHA = 8, 16
LAST_LAYERS = 2
LORA_WAYS = ("lora", "lora-int8")
WAYS = ("full", "last-2", *LORA_WAYS)
# Far more than one would take, so that a few steps show whether two libraries learn alike.
LEARNING_RATES = {"full": 1e-4, "last-2": 1e-3, "lora": 1e-3, "lora-int8": 1e-3}
_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Job:
    """What every library is to do."""

    way: str
    """One of WAYS."""
    precision: str
    """"fp32", or "bf16" for the products alone."""
    device: torch.device
    compiled: bool
    batch_size: int
    seq_len: int


def prepare_gptlab(job: Job) -> None:
    """As a run of gptlab begins."""
    from gptlab.training.allocation import keep_freed_memory, prefer_huge_pages

    prefer_huge_pages()
    if job.device.type == "cpu":
        keep_freed_memory()


def load_gptlab(job: Job, folder: str) -> nn.Module:
    """As a run with init_from takes it."""
    from gptlab.config import TrainConfig
    from gptlab.training.pretrained import load_pretrained

    settings: dict[str, Any] = {"init_from": folder}
    if job.way == "last-2":
        settings["train_last_layers"] = LAST_LAYERS
    elif job.way in LORA_WAYS:
        settings |= {"lora_rank": LORA_RANK, "lora_alpha": LORA_ALPHA}
        settings["lora_base"] = "int8" if job.way == "lora-int8" else "full"
    _, pretrained = load_pretrained(TrainConfig(**settings))
    begin_adapters(pretrained.model, "lora_a", "lora_b")
    return pretrained.model.to(job.device)


def train_gptlab(model: nn.Module, job: Job) -> Trainee:
    """The parts of a run, put together as gptlab-train does it."""
    from gptlab.config import OptimizerConfig
    from gptlab.model import GPT
    from gptlab.training.loader import DeviceBatch
    from gptlab.training.objective import Objective
    from gptlab.training.optimizers import make_optimizers
    from gptlab.training.precision import Arithmetic
    from gptlab.training.tuning import choose_attention

    assert isinstance(model, GPT)
    arithmetic = Arithmetic(job.device, job.precision)
    shape = model.config.replace(seq_len=job.seq_len)
    model.use_attention(choose_attention(shape, arithmetic, rows=job.batch_size))
    objective = Objective(model, arithmetic=arithmetic)
    forward = torch.compile(objective, dynamic=False) if job.compiled else objective
    settings = OptimizerConfig(
        learning_rate=LEARNING_RATES[job.way],
        beta1=_BETAS[0],
        beta2=_BETAS[1],
        weight_decay=0.0,
    )
    products = torch.bfloat16 if job.precision == "bf16" else torch.float32
    optimizers = make_optimizers(model, settings, products=products)

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        sums = forward(DeviceBatch(inputs, targets))
        loss: Tensor = sums.objective / sums.weight
        return loss

    return Trainee(model.train(), loss_of, optimizers)


def prepare_transformers(_job: Job) -> None:
    hush_transformers()


def load_transformers(job: Job, folder: str) -> nn.Module:
    """Adapters are by peft."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    if job.way == "last-2":
        model.requires_grad_(False)
        body = model.get_submodule("transformer")
        for part in (*body.get_submodule("h")[-LAST_LAYERS:], body.get_submodule("ln_f")):
            part.requires_grad_(True)
    elif job.way in LORA_WAYS:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            target_modules=["c_attn", "c_proj", "c_fc"],
            fan_in_fan_out=True,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
        begin_adapters(model, "lora_A", "lora_B")
    return model.to(job.device)


def train_transformers(model: nn.Module, job: Job) -> Trainee:
    """Hugging Face's GPT-2 with its own loss, as their Trainer calls it."""
    forward = torch.compile(model) if job.compiled else model

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        enabled = job.precision == "bf16"
        with torch.autocast(job.device.type, torch.bfloat16, enabled=enabled):
            loss: Tensor = forward(
                inputs, labels=targets, shift_labels=targets, use_cache=False
            ).loss
        return loss

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=LEARNING_RATES[job.way], betas=_BETAS, weight_decay=0.0, fused=True
    )
    return Trainee(model.train(), loss_of, [optimizer])


def begin_adapters(model: nn.Module, down: str, up: str) -> None:
    """Give the adapters the same values in each library.

    Args:
        model: With adapters, or none.
        down: What the names of the matrices (R, K) have in them, which are drawn anew.
        up: What those of the matrices (N, R) have, which are zero.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if down in name:
                values = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(values / parameter.shape[1] ** 0.5)
            elif up in name:
                parameter.zero_()


@dataclass(frozen=True)
class Library:
    """How a library fine-tunes."""

    prepare: Callable[[Job], None]
    """Called before the first tensor is made."""
    load: Callable[[Job, str], nn.Module]
    """The model in a folder, ready to learn in the job's way."""
    trainee: Callable[[nn.Module, Job], Trainee]
    """The model with a loss and an optimizer."""


LIBRARIES = {
    "gptlab": Library(prepare_gptlab, load_gptlab, train_gptlab),
    "transformers": Library(prepare_transformers, load_transformers, train_transformers),
}
