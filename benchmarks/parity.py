"""Hold models that gptlab reads from transformers' files against transformers itself.

    python benchmarks/parity.py

Of each family, a small model of random weights is written by transformers and read by gptlab. Both
compute logits, loss and gradients of the same tokens, and take 10 steps of torch's AdamW. Told is
the largest difference, in units of the largest number of its tensor; all in float64, apart from
rotary angles, which transformers rounds to float32. Then the logits once more in float32, and of
the model that gptlab writes back.

Then encoder-decoders of PyTorch and of transformers, whose weights gptlab's Transformer gets by the
tables of transformer_weights.py: the same figures, of rows of different lengths that are filled up.
Writes results/parity.json.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from measure import available_cores, machine
from report import publish
from torch import Tensor, nn
from transformer_parity import SHAPE as PAIR_SHAPE
from transformer_parity import STEPS, difference, measure_all
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from gptlab.interop import read_huggingface, write_huggingface
from gptlab.interop.families import family_of

VOCAB, LENGTH = 131, 256
SHAPE = {
    "vocab_size": VOCAB,
    "max_position_embeddings": LENGTH,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10_000.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10_000.0,
}
CONFIGS = {
    "GPT-2": lambda: GPT2Config(
        vocab_size=VOCAB,
        n_positions=LENGTH,
        n_embd=96,
        n_layer=3,
        n_head=6,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "Llama": lambda: LlamaConfig(**SHAPE, num_key_value_heads=2),
    "Llama, llama3 stretch": lambda: LlamaConfig(
        **SHAPE, num_key_value_heads=2, rope_parameters=LLAMA3
    ),
    "Mistral, window of 50": lambda: MistralConfig(
        **SHAPE, num_key_value_heads=2, sliding_window=50
    ),
    "Qwen2": lambda: Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "Qwen2, yarn stretch": lambda: Qwen2Config(
        **SHAPE, num_key_value_heads=2, rope_parameters=YARN
    ),
    "Qwen3": lambda: Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=24),
    "GPT-NeoX": lambda: GPTNeoXConfig(**SHAPE, rotary_pct=0.25),
}


def make_peer(config: Any) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Every weight and bias off its initial value, so that none can hide a wrong mapping.
            parameter.normal_(mean=parameter.mean().item(), std=0.1)
    return model.eval()


def as_theirs(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    family = family_of(model.config)
    theirs: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        theirs |= family.to_theirs(name, tensor, model.config)
    return {name.replace("embed_out", "lm_head"): tensor for name, tensor in theirs.items()}


def largest(ours: Any, theirs: nn.Module, value: Callable[[nn.Parameter], Any]) -> float:
    """The largest difference of what `value` takes of each parameter."""
    found = as_theirs(ours, {name: value(p) for name, p in ours.named_parameters()})
    return max(difference(found[name], value(p)) for name, p in theirs.named_parameters())


def learn(ours: Any, theirs: Any, ids: Tensor) -> dict[str, float]:
    """Differences of loss and gradients at the first step, and of weights after the last."""
    models = (ours, theirs)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4) for model in models]
    figures: dict[str, float] = {}
    for step in range(STEPS):
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            logits = model(ids) if model is ours else model(ids).logits
            optimizer.zero_grad()
            losses.append(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
            losses[-1].backward()
        if step == 0:
            figures["loss"] = difference(*(loss.detach() for loss in losses))
            figures["gradients"] = largest(ours, theirs, lambda p: p.grad)
        for optimizer in optimizers:
            optimizer.step()
    figures[f"weights after {STEPS} steps"] = largest(ours, theirs, lambda p: p.detach())
    return figures


def measure(config: Any, folder: Path) -> dict[str, float]:
    ids = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    peer = make_peer(config)
    peer.save_pretrained(folder / "fp32")
    ours = read_huggingface(folder / "fp32")
    write_huggingface(folder / "back", ours, None)
    back = AutoModelForCausalLM.from_pretrained(folder / "back")
    with torch.no_grad():
        expected = peer(ids).logits
        single = {
            "logits in float32": difference(ours(ids), expected),
            "logits of the model written back": difference(back(ids).logits, expected),
        }
    peer.double().save_pretrained(folder / "fp64")
    ours = read_huggingface(folder / "fp64")
    with torch.no_grad():
        logits = difference(ours(ids), peer(ids).logits)
    return {"logits": logits, **learn(ours, peer, ids), **single}


def main() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    results: dict[str, dict[str, float]] = {}
    for name, config in CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(config(), Path(folder))
    publish(
        "parity",
        {
            "benchmark": "parity",
            "machine": machine(["torch", "transformers"], cores=available_cores()),
            "shape": {"vocabulary": VOCAB, "length": LENGTH, "width": 96, "layers": 3},
            "results": results,
            "encoder_decoders": {
                "shape": {
                    "vocabulary": PAIR_SHAPE["vocab_size"],
                    "length": PAIR_SHAPE["seq_len"],
                    "width": PAIR_SHAPE["embed_dim"],
                    "layers": f"{PAIR_SHAPE['encoder_layers']} + {PAIR_SHAPE['num_layers']}",
                },
                "results": measure_all(),
            },
        },
    )


if __name__ == "__main__":
    main()
