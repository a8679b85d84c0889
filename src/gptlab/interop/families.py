"""The families that gptlab reads and writes, one table each, which is read both ways.

A module's name has `*` for the number of the block.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop.family import Family, Option, Rotary, Stored
from gptlab.interop.forms import BY_HEAD, QUERY_KEY_VALUE, TRANSPOSED


def _same(names: Mapping[str, str]) -> dict[str, Stored]:
    return {ours: Stored((theirs,)) for ours, theirs in names.items()}


_GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    modules={
        **_same(
            {
                "embedding": "transformer.wte",
                "position_embedding": "transformer.wpe",
                "norm": "transformer.ln_f",
                "lm_head": "lm_head",
                "blocks.*.attention_norm": "transformer.h.*.ln_1",
                "blocks.*.feed_forward_norm": "transformer.h.*.ln_2",
            }
        ),
        "blocks.*.attention.qkv_proj": Stored(("transformer.h.*.attn.c_attn",), TRANSPOSED),
        "blocks.*.attention.o_proj": Stored(("transformer.h.*.attn.c_proj",), TRANSPOSED),
        "blocks.*.feed_forward.up_proj": Stored(("transformer.h.*.mlp.c_fc",), TRANSPOSED),
        "blocks.*.feed_forward.down_proj": Stored(("transformer.h.*.mlp.c_proj",), TRANSPOSED),
    },
    ignored=r"transformer\.h\.\d+\.attn\.(masked_)?bias",
    sizes={
        "vocab_size": "vocab_size",
        "n_positions": "seq_len",
        "n_embd": "embed_dim",
        "n_layer": "num_layers",
        "n_head": "n_heads",
    },
    options={
        "layer_norm_epsilon": Option("norm_eps", 1e-5),
        "tie_word_embeddings": Option("tie_embeddings", True),
        "resid_pdrop": Option("dropout", 0.1),
        "embd_pdrop": Option("dropout", 0.1),
        "attn_pdrop": Option("dropout", 0.1),
    },
    width="n_inner",
    activation="activation_function",
    activations={
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu": "gelu",
        "relu": "relu",
        "relu2": "relu2",
    },
    fixed={
        "positions": "learned",
        "norm": "layernorm",
        "norm_place": "pre",
        "bias": True,
        "qkv_bias": True,
        "qk_norm": False,
        "parallel_residual": False,
        "logit_soft_cap": None,
    },
    demanded={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
)

_LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    modules={
        **_same(
            {
                "embedding": "model.embed_tokens",
                "norm": "model.norm",
                "lm_head": "lm_head",
                "blocks.*.attention_norm": "model.layers.*.input_layernorm",
                "blocks.*.attention.o_proj": "model.layers.*.self_attn.o_proj",
                "blocks.*.attention.q_norm": "model.layers.*.self_attn.q_norm",
                "blocks.*.attention.k_norm": "model.layers.*.self_attn.k_norm",
                "blocks.*.feed_forward_norm": "model.layers.*.post_attention_layernorm",
                "blocks.*.feed_forward.gate_proj": "model.layers.*.mlp.gate_proj",
                "blocks.*.feed_forward.up_proj": "model.layers.*.mlp.up_proj",
                "blocks.*.feed_forward.down_proj": "model.layers.*.mlp.down_proj",
            }
        ),
        "blocks.*.attention.qkv_proj": Stored(
            tuple(f"model.layers.*.self_attn.{part}_proj" for part in "qkv"), QUERY_KEY_VALUE
        ),
    },
    ignored=r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    sizes={
        "vocab_size": "vocab_size",
        "max_position_embeddings": "seq_len",
        "hidden_size": "embed_dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "n_heads",
    },
    options={
        "num_key_value_heads": Option("n_kv_heads", None),
        "rms_norm_eps": Option("norm_eps", 1e-6),
        "tie_word_embeddings": Option("tie_embeddings", False),
        "head_dim": Option("head_width", None),
    },
    width="intermediate_size",
    activation="hidden_act",
    activations={"silu": "swiglu", "swish": "swiglu"},
    fixed={
        "positions": "rope",
        "rotary_share": 1.0,
        "norm": "rmsnorm",
        "norm_place": "pre",
        "bias": False,
        "qkv_bias": False,
        "qk_norm": False,
        "parallel_residual": False,
        "logit_soft_cap": None,
    },
    demanded={"attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0},
    rotary=Rotary(),
)

_MISTRAL = replace(
    _LLAMA,
    name="mistral",
    architecture="MistralForCausalLM",
    window="all",
    heads_divide=False,
)

_QWEN2 = replace(
    _LLAMA,
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    fixed={**_LLAMA.fixed, "qkv_bias": True},
    window="by layer",
    heads_divide=False,
)

_QWEN3 = replace(
    _QWEN2,
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    options={**_LLAMA.options, "head_dim": Option("head_width", 128)},
    fixed={**_LLAMA.fixed, "qk_norm": True},
)

_GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    modules={
        **_same(
            {
                "embedding": "gpt_neox.embed_in",
                "norm": "gpt_neox.final_layer_norm",
                "lm_head": "embed_out",
                "blocks.*.attention_norm": "gpt_neox.layers.*.input_layernorm",
                "blocks.*.attention.o_proj": "gpt_neox.layers.*.attention.dense",
                "blocks.*.feed_forward_norm": "gpt_neox.layers.*.post_attention_layernorm",
                "blocks.*.feed_forward.up_proj": "gpt_neox.layers.*.mlp.dense_h_to_4h",
                "blocks.*.feed_forward.down_proj": "gpt_neox.layers.*.mlp.dense_4h_to_h",
            }
        ),
        "blocks.*.attention.qkv_proj": Stored(
            ("gpt_neox.layers.*.attention.query_key_value",), BY_HEAD
        ),
    },
    ignored=r"gpt_neox\.(layers\.\d+\.attention\.)?(bias|masked_bias|rotary_emb\.inv_freq)",
    sizes=_LLAMA.sizes,
    options={
        "layer_norm_eps": Option("norm_eps", 1e-5),
        "tie_word_embeddings": Option("tie_embeddings", False),
        "use_parallel_residual": Option("parallel_residual", True),
        "hidden_dropout": Option("dropout", 0.0),
        "attention_dropout": Option("dropout", 0.0),
    },
    width="intermediate_size",
    activation="hidden_act",
    activations={
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "relu2": "relu2",
    },
    fixed={
        "positions": "rope",
        "norm": "layernorm",
        "norm_place": "pre",
        "bias": True,
        "qkv_bias": True,
        "qk_norm": False,
        "logit_soft_cap": None,
    },
    demanded={"attention_bias": True},
    rotary=Rotary(theta="rotary_emb_base", share="rotary_pct", usual_share=0.25),
    aliases={"lm_head.weight": "embed_out.weight"},
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (_GPT2, _LLAMA, _MISTRAL, _QWEN2, _QWEN3, _GPT_NEOX)}
)
"""All families, by name; where several have a model's settings, the first is meant."""


def family_of(config: ModelConfig) -> Family:
    """The family that has models of these settings.

    Raises:
        ConfigError: None has; it says which settings are in the way.
    """
    differences = {name: family.differences(config) for name, family in FAMILIES.items()}
    nearest = min(differences, key=lambda name: len(differences[name]))
    if not differences[nearest]:
        return FAMILIES[nearest]
    ours = ", ".join(f"{name} {getattr(config, name)!r}" for name in differences[nearest])
    theirs = ", ".join(f"{name} {value!r}" for name, value in differences[nearest].items())
    raise ConfigError(
        f"no family of models has {ours} beside this model's other settings; the nearest, "
        f"{nearest}, has {theirs}"
    )


def family_for(document: Mapping[str, Any]) -> Family:
    """The family that the `config.json` of a model names.

    Raises:
        CheckpointError: It is none that is known here.
    """
    architectures = document.get("architectures")
    architectures = architectures if isinstance(architectures, list) else []
    name = document.get("model_type")
    for family in FAMILIES.values():
        if family.name == name or (name is None and family.architecture in architectures):
            return family
    known = ", ".join(f"{one.name} ({one.architecture})" for one in FAMILIES.values())
    named = " ".join(map(str, architectures)) or "unnamed"
    raise CheckpointError(
        f"its architecture is {named} (model_type {name!r}), which gptlab does not read; "
        f"supported are {known}"
    )
