"""Which of llama.cpp's architectures a model is, and what a GGUF file says of it.

A GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) names an architecture, whose
code in llama.cpp decides what is computed. The file adds numbers; parts can't be chosen.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gptlab.config import ModelConfig
from gptlab.errors import ExportError

_YARN_TURNS = (1.0, 32.0)
_GELUS = ("gelu", "gelu_tanh")


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp arranges the tensors of a family."""

    name: str
    """As the file names it."""
    fused: bool = False
    """Queries, keys and values are one tensor."""
    interleaved: bool = False
    """Rotary pairs are neighbours, so that the rows of queries and keys change places."""
    classic: bool = False
    """Layer norms, all of them and all linear layers with biases, and GELU."""
    untied: bool = False
    """The head has a tensor of its own, tied or not."""


_ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("gpt2", fused=True, classic=True),
        Architecture("gptneox", fused=True, classic=True, untied=True),
        Architecture("llama", interleaved=True),
        Architecture("qwen2"),
        Architecture("qwen3"),
    )
}


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that computes what a model of these settings does.

    Raises:
        ExportError: llama.cpp has none.
    """
    _check_everywhere(config)
    is_classic = config.norm == "layernorm" and config.activation in _GELUS
    if config.norm == "rmsnorm" and config.activation == "swiglu" and config.positions == "rope":
        return _ARCHITECTURES[_llama_like(config)]
    if is_classic and config.positions in ("rope", "learned"):
        return _ARCHITECTURES[_classic(config)]
    if config.positions not in ("rope", "learned"):
        raise _refused("positions", config, remedy="--positions rope or learned")
    if config.activation not in ("swiglu", *_GELUS):
        remedy = "--activation swiglu --norm rmsnorm, or --activation gelu_tanh --norm layernorm"
        raise _refused("activation", config, remedy=remedy)
    norm = "rmsnorm" if config.activation == "swiglu" else "layernorm"
    if config.norm != norm:
        also = f"with activation '{config.activation}'"
        raise _refused("norm", config, also=also, remedy=f"--norm {norm}")
    raise _refused("positions", config, also="with swiglu", remedy="--positions rope")


def _check_everywhere(config: ModelConfig) -> None:
    if config.norm_place != "pre":
        raise _refused("norm_place", config, remedy="--norm_place pre")
    if config.logit_soft_cap is not None:
        raise _refused("logit_soft_cap", config, remedy="no --logit_soft_cap")
    if config.window is not None and config.window < config.seq_len:
        raise _refused("window", config, remedy="no --window")
    turns = (config.rope_low_turns, config.rope_high_turns or _YARN_TURNS[1])
    if config.rope_scaling == "yarn" and turns != _YARN_TURNS:
        raise ExportError(
            f"rope_low_turns and rope_high_turns are {turns[0]:g} and {turns[1]:g}, but llama.cpp "
            "stretches by yarn with 1 and 32; export it as hf or onnx"
        )


def _llama_like(config: ModelConfig) -> str:
    if config.parallel_residual:
        raise _refused("parallel_residual", config, also="with swiglu", remedy="none")
    if config.rotary_share != 1:
        raise _refused("rotary_share", config, also="with swiglu", remedy="--rotary_share 1")
    name = "llama"
    if config.qk_norm:
        if config.bias:
            raise _refused("bias", config, also="with qk_norm", remedy="--no_bias")
        name = "qwen3"
    elif config.qkv_bias and not config.bias and _is_square(config):
        name = "llama" if config.rope_scaling == "llama3" else "qwen2"
    _check_scaling(config, name)
    return name


def _classic(config: ModelConfig) -> str:
    also = "with layernorm and GELU"
    if config.qk_norm:
        raise _refused("qk_norm", config, also=also, remedy="--no_qk_norm")
    if not _is_square(config):
        raise _refused("head_width", config, also=also, remedy="no --head_width")
    if config.positions == "learned":
        if config.parallel_residual:
            raise _refused(
                "parallel_residual", config, also="with learned positions", remedy="rope"
            )
        return "gpt2"
    _check_scaling(config, "gptneox")
    return "gptneox"


def _check_scaling(config: ModelConfig, name: str) -> None:
    if config.rope_scaling == "llama3" and name != "llama":
        also = f"in its '{name}' models"
        raise _refused("rope_scaling", config, also=also, remedy="--rope_scaling yarn or linear")


def _is_square(config: ModelConfig) -> bool:
    return config.n_heads * config.head_dim == config.embed_dim


def _refused(name: str, config: ModelConfig, *, remedy: str, also: str = "") -> ExportError:
    value = getattr(config, name)
    shown = repr(value) if isinstance(value, str) else value
    where = f" {also}" if also else ""
    return ExportError(
        f"{name} is {shown}, which llama.cpp does not have{where}; train a model with {remedy}, or "
        "export this one as onnx"
    )


def metadata(config: ModelConfig, architecture: Architecture) -> dict[str, Any]:
    """The keys of a file that say what the model is; a float stands for 32 bits."""
    eps = "layer_norm_epsilon" if architecture.classic else "layer_norm_rms_epsilon"
    keys = {
        "vocab_size": config.vocab_size,
        "context_length": config.seq_len,
        "embedding_length": config.embed_dim,
        "block_count": config.num_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        f"attention.{eps}": config.norm_eps,
        **(_rope_keys(config) if config.positions == "rope" else {}),
    }
    if architecture.name == "gptneox":
        keys["use_parallel_residual"] = config.parallel_residual
    return {f"{architecture.name}.{key}": value for key, value in keys.items()}


def _rope_keys(config: ModelConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "rope.dimension_count": config.rotary_dim,
        "rope.freq_base": config.rope_theta,
    }
    # What llama3 makes of the frequencies is a tensor.
    if config.rope_scaling in ("linear", "yarn"):
        keys["rope.scaling.type"] = config.rope_scaling
        keys["rope.scaling.factor"] = config.rope_factor
    if config.rope_scaling == "yarn":
        keys["rope.scaling.original_context_length"] = config.rope_original_len
        if config.rope_attention_factor is not None:
            usual = _usual_attention_factor(config.rope_factor)
            keys["rope.scaling.attn_factor"] = config.rope_attention_factor / usual
    return keys


def _usual_attention_factor(rope_factor: float) -> float:
    return 0.1 * math.log(rope_factor) + 1.0


def named_architecture(name: str) -> Architecture:
    """The architecture of this name.

    Raises:
        ExportError: gptlab does not know it.
    """
    if name not in _ARCHITECTURES:
        raise ExportError(
            f"the architecture '{name}' is not among those that gptlab reads: "
            f"{', '.join(_ARCHITECTURES)}"
        )
    return _ARCHITECTURES[name]


def config_of(
    keys: Mapping[str, Any], shapes: Mapping[str, Iterable[int]], architecture: Architecture
) -> ModelConfig:
    """The settings of the model in a file, as llama.cpp computes it.

    Args:
        keys: What the file says.
        shapes: Of its tensors, by name.
        architecture: Which it names.
    """
    name = architecture.name
    own = {key.removeprefix(f"{name}."): value for key, value in keys.items()}
    embed_dim = own["embedding_length"]
    eps = "layer_norm_epsilon" if architecture.classic else "layer_norm_rms_epsilon"
    qkv = "attn_qkv" if architecture.fused else "attn_q"
    rope = {} if name == "gpt2" else _rope_settings(own)
    return ModelConfig(
        vocab_size=next(iter(shapes["token_embd.weight"])),
        seq_len=own["context_length"],
        embed_dim=embed_dim,
        num_layers=own["block_count"],
        n_heads=own["attention.head_count"],
        n_kv_heads=own["attention.head_count_kv"],
        head_width=own["attention.key_length"],
        expansion_factor=own["feed_forward_length"] / embed_dim,
        positions="learned" if name == "gpt2" else "rope",
        norm="layernorm" if architecture.classic else "rmsnorm",
        norm_eps=own[f"attention.{eps}"],
        activation="gelu_tanh" if architecture.classic else "swiglu",
        bias="blk.0.ffn_down.bias" in shapes,
        qkv_bias=f"blk.0.{qkv}.bias" in shapes,
        qk_norm="blk.0.attn_q_norm.weight" in shapes,
        parallel_residual=own.get("use_parallel_residual", False),
        tie_embeddings="output.weight" not in shapes,
        **rope,
    )


def _rope_settings(own: Mapping[str, Any]) -> dict[str, Any]:
    scaling, factor = own.get("rope.scaling.type"), own.get("rope.scaling.factor", 1.0)
    settings: dict[str, Any] = {
        "rope_theta": own["rope.freq_base"],
        "rotary_share": own["rope.dimension_count"] / own["attention.key_length"],
        "rope_scaling": scaling,
        "rope_factor": factor,
    }
    if scaling == "yarn":
        usual = _usual_attention_factor(factor)
        settings["rope_original_len"] = own["rope.scaling.original_context_length"]
        settings["rope_attention_factor"] = usual * own.get("rope.scaling.attn_factor", 1.0)
    return settings
