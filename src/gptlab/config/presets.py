"""Named starting points, and how layers of settings lie on one another.

defaults  <  preset  <  file  <  flags
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# What an optimizer wants that the others do not, where nobody said otherwise.
OPTIMIZER_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lion": MappingProxyType({"learning_rate": 3e-4, "beta2": 0.99}),
        "sgd": MappingProxyType({"learning_rate": 0.1, "momentum": 0.9}),
    }
)
# Adapters begin as nothing and are few: they take, and want, a higher rate than whole weights.
LORA_DEFAULTS: Mapping[str, Any] = MappingProxyType({"learning_rate": 2e-4})
# Two ways to say the same thing: whoever says it in one way no longer means the other.
_OTHER_WAY: Mapping[str, str] = MappingProxyType(
    {
        "epochs": "max_steps",
        "save_every_epochs": "save_every",
        "gradient_accumulation_steps": "micro_batch_size",
        "micro_batch_size": "gradient_accumulation_steps",
        "warmup_steps": "warmup_share",
        "warmup_share": "warmup_steps",
        "batch_size": "batch_tokens",
        "batch_tokens": "batch_size",
    }
)

# The arrangement of 2019; the defaults are today's.
_CLASSIC: Mapping[str, Any] = {
    "positions": "learned",
    "qk_norm": False,
    "tie_embeddings": True,
}

_GPT2: Mapping[str, Any] = {
    **_CLASSIC,
    "vocab_size": 50257,
    "seq_len": 1024,
    "activation": "gelu_tanh",
    "bias": True,
    "batch_size": 8,
    "learning_rate": 6e-4,
    "warmup_steps": 2000,
    "epochs": 1,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # seconds on a CPU: for trying a pipeline out
    "tiny": {
        "embed_dim": 64,
        "num_layers": 2,
        "n_heads": 2,
        "seq_len": 64,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "max_steps": 200,
        "eval_steps": 100,
    },
    # minutes on a CPU: about 1M parameters that learn to spell and to form lines
    "toy": {
        "embed_dim": 128,
        "num_layers": 4,
        "n_heads": 4,
        "seq_len": 128,
        "batch_size": 32,
        # As in recipes/shakespeare-cpu.toml, a model of this size, and what its ablation found.
        "residual_init": "zero",
        "optimizer": "muon",
        "learning_rate": 5e-3,
        "momentum": 0.9,
        "max_steps": 1500,
        "eval_steps": 250,
    },
    # the character-level Shakespeare run of nanoGPT; 260 ids are the bytes and the specials
    "nanogpt-char": {
        **_CLASSIC,
        "activation": "gelu",
        "vocab_size": 260,
        "embed_dim": 384,
        "num_layers": 6,
        "n_heads": 6,
        "seq_len": 256,
        "dropout": 0.2,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "beta2": 0.99,
        "warmup_steps": 100,
        "max_steps": 5000,
        "eval_steps": 250,
    },
    "gpt2": {**_GPT2, "embed_dim": 768, "num_layers": 12, "n_heads": 12},
    "gpt2-medium": {**_GPT2, "embed_dim": 1024, "num_layers": 24, "n_heads": 16},
    "gpt2-large": {**_GPT2, "embed_dim": 1280, "num_layers": 36, "n_heads": 20},
    "gpt2-xl": {**_GPT2, "embed_dim": 1600, "num_layers": 48, "n_heads": 25},
    # the base model of "Attention Is All You Need", https://arxiv.org/abs/1706.03762, table 3, and
    # how it was trained, for pairs of one's own: the rate is (512 x 4000)^-0.5 at its peak, and the
    # batch 25,000 tokens on each side
    "transformer-base": {
        "architecture": "transformer",
        "vocab_size": 37_000,
        "seq_len": 512,
        "embed_dim": 512,
        "num_layers": 6,
        "n_heads": 8,
        "positions": "sinusoidal",
        "norm_place": "post",
        "activation": "relu",
        "bias": True,
        "qk_norm": False,
        "tie_embeddings": True,
        "dropout": 0.1,
        "label_smoothing": 0.1,
        "schedule": "inverse_sqrt",
        "learning_rate": 7e-4,
        "min_learning_rate": 0.0,
        "warmup_steps": 4000,
        "beta2": 0.98,
        "weight_decay": 0.0,
        "grad_clip": 0.0,
        "batch_tokens": 50_000,
        "max_steps": 100_000,
    },
    # going on from a trained model (--init_from) on a text of its own: small steps, a slow start,
    # and an end as soon as the held-out text says that it learns by heart
    "finetune": {
        "learning_rate": 2e-5,
        "min_learning_rate": 0.0,
        "schedule": "linear",
        "warmup_share": 0.2,
        "weight_decay": 0.01,
        "beta2": 0.999,
        "batch_size": 16,
        "epochs": 3,
        "eval_steps": 50,
        "patience": 3,
    },
}


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `above` on top of those `below`, without what they leave no room for."""
    gone = superseded_by(above)
    return {name: value for name, value in below.items() if name not in gone} | dict(above)


def superseded_by(given: Mapping[str, Any]) -> set[str]:
    """Names of settings that no longer hold where others are `given`, and they are not."""
    names = {other for name, other in _OTHER_WAY.items() if given.get(name) is not None}
    names |= implied_by(given).keys()
    return names - given.keys()


def implied_by(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the optimizer and LoRA among the settings `given` want where nobody said otherwise."""
    lora = LORA_DEFAULTS if given.get("lora_rank") is not None else {}
    return {**lora, **OPTIMIZER_DEFAULTS.get(str(given.get("optimizer")), {})}
