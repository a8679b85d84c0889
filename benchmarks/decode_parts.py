"""Who takes part in decode.py, and in what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_GPT2 = {"vocab_size": 50257, "embed_dim": 768, "num_layers": 12, "n_heads": 12, "seq_len": 1024}
SMALL = {"vocab_size": 512, "embed_dim": 384, "num_layers": 6, "n_heads": 6, "seq_len": 1024}
TINY = {"vocab_size": 384, "embed_dim": 64, "num_layers": 2, "n_heads": 2, "seq_len": 1024}


@dataclass(frozen=True)
class Contender:
    """Who generates, and how."""

    name: str
    library: str
    precision: str = "bf16"
    settings: Mapping[str, Any] = field(default_factory=dict)


_COMPILED = {"compile": "on"}
_OWN = tuple(Contender(f"gptlab, {kind}", "gptlab", kind, _COMPILED) for kind in ("fp32", "bf16"))
_OWN_BF16 = _OWN[1:]
_OWN_OFF = (Contender("gptlab, not compiled, bf16", "gptlab", settings={"compile": "off"}),)
_QUANTIZED = tuple(
    Contender(f"gptlab, {kind}", "gptlab", kind, _COMPILED) for kind in ("int8", "int4")
)
_PEER = tuple(Contender(f"transformers, {kind}", "transformers", kind) for kind in ("fp32", "bf16"))
_PEER_BF16 = _PEER[1:]
_PEER_STATIC = (
    Contender(
        "transformers, static cache, compiled, bf16",
        "transformers",
        settings={"cache_implementation": "static"},
    ),
)
_LLAMA = tuple(
    Contender(f"llama.cpp, {kind}", "llama.cpp", kind) for kind in ("f16", "bf16", "q8_0", "q4_0")
)
BANDWIDTH = tuple(Contender(name, name) for name in ("sum", "row products"))


@dataclass(frozen=True)
class Part:
    """A setting in which contenders are compared."""

    title: str
    kind: str
    """`decode`, `latency` of a small model, or `prefill`: how it is reported."""
    on_cpu: Sequence[Contender]
    on_gpu: Sequence[Contender]
    shape: Mapping[str, int] = field(default_factory=lambda: _GPT2)
    batch: int = 1
    prompt_tokens: int = 16
    new_tokens: int = 256


_BATCHES = (_OWN_BF16 + _PEER_BF16, _OWN_BF16 + _PEER_BF16 + _PEER_STATIC)
PARTS: Mapping[str, Part] = {
    "batch1": Part(
        "GPT-2 124M",
        "decode",
        _OWN + _OWN_OFF + _QUANTIZED + _PEER + _PEER_STATIC + _LLAMA,
        _OWN_BF16 + _OWN_OFF + _QUANTIZED + _PEER_BF16 + _PEER_STATIC,
    ),
    "batch8": Part("GPT-2 124M in batches of 8", "decode", *_BATCHES, batch=8),
    "batch32": Part("GPT-2 124M in batches of 32", "decode", *_BATCHES, batch=32),
    "small": Part(
        "10M parameters",
        "latency",
        _OWN + _OWN_OFF + _PEER + _PEER_STATIC,
        _OWN_BF16 + _PEER_BF16 + _PEER_STATIC,
        shape=SMALL,
    ),
    "prefill": Part(
        "GPT-2 124M, a long prompt",
        "prefill",
        _OWN + _PEER + _LLAMA[:2],
        _OWN_BF16 + _PEER_BF16,
        prompt_tokens=512,
        new_tokens=1,
    ),
}
