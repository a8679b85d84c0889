"""Tiny models of transformers with random weights, one of each family and some variants."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from gptlab.interop.families import family_of
from gptlab.model import GPT

VOCAB = 131
LENGTH = 32
GPT2_SHAPE = {
    "vocab_size": VOCAB,
    "n_positions": LENGTH,
    "n_embd": 42,
    "n_layer": 2,
    "n_head": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
SHAPE = {
    "vocab_size": VOCAB,
    "max_position_embeddings": LENGTH,
    "hidden_size": 42,
    "intermediate_size": 55,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500.0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
LONG = {"max_position_embeddings": 512}

CONFIGS: dict[str, Any] = {
    "gpt2": lambda: GPT2Config(**GPT2_SHAPE),
    "gpt2, odd width": lambda: GPT2Config(**{**GPT2_SHAPE, "n_inner": 55}, layer_norm_epsilon=1e-3),
    "gpt2, untied": lambda: GPT2Config(**GPT2_SHAPE, tie_word_embeddings=False),
    "gpt2, gelu": lambda: GPT2Config(**GPT2_SHAPE, activation_function="gelu"),
    "gpt2, relu": lambda: GPT2Config(**GPT2_SHAPE, activation_function="relu"),
    "llama": lambda: LlamaConfig(**SHAPE, num_key_value_heads=1),
    "llama, all heads": lambda: LlamaConfig(**SHAPE, num_key_value_heads=3),
    "llama, tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, wide heads": lambda: LlamaConfig(**SHAPE, head_dim=16),
    "llama, linear": lambda: LlamaConfig(**SHAPE, rope_parameters=dict(LINEAR)),
    "llama, dynamic": lambda: LlamaConfig(**SHAPE, rope_parameters=dict(DYNAMIC)),
    "llama, llama3, long": lambda: LlamaConfig(**{**SHAPE, **LONG}, rope_parameters=dict(LLAMA3)),
    "mistral": lambda: MistralConfig(**SHAPE, num_key_value_heads=1, sliding_window=7, head_dim=10),
    "mistral, no window": lambda: MistralConfig(
        **SHAPE, num_key_value_heads=3, sliding_window=None
    ),
    "qwen2": lambda: Qwen2Config(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2, yarn, long": lambda: Qwen2Config(
        **{**SHAPE, **LONG}, num_key_value_heads=3, rope_parameters=dict(YARN)
    ),
    "qwen3": lambda: Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=8),
    "qwen3, window": lambda: Qwen3Config(
        **SHAPE,
        num_key_value_heads=1,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=9,
        max_window_layers=0,
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**SHAPE, rotary_pct=0.3),
    "gpt_neox, one after the other": lambda: GPTNeoXConfig(
        **SHAPE, rotary_pct=1.0, use_parallel_residual=False, hidden_act="gelu_new"
    ),
}
FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt_neox")


def make_peer(name: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Every weight and bias off its initial value, so that none can hide a wrong mapping.
            parameter.normal_(mean=parameter.mean().item(), std=0.2)
    return model.to(dtype).eval()


def save_peer(name: str, folder: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = make_peer(name, dtype=dtype)
    model.save_pretrained(folder)
    return model


def as_theirs(model: GPT, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of ours, by their names; of the head of GPT-NeoX, the one that it has in memory."""
    family = family_of(model.config)
    theirs: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        theirs |= family.to_theirs(name, tensor, model.config)
    return {name.replace("embed_out", "lm_head"): tensor for name, tensor in theirs.items()}
