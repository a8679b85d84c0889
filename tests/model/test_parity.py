"""With the weights of a random tiny transformers model, GPT gives its logits and gradients."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from gptlab.config import ModelConfig
from gptlab.model import GPT

LAYERS = 2
LLAMA_SHAPE = {
    "vocab_size": 31,
    "max_position_embeddings": 12,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "tie_word_embeddings": False,
    "pad_token_id": None,
}
OUR_LLAMA_SHAPE = {
    "vocab_size": 31,
    "seq_len": 12,
    "embed_dim": 24,
    "num_layers": LAYERS,
    "n_heads": 4,
    "n_kv_heads": 2,
    "expansion_factor": 1.5,
    "positions": "rope",
    "rope_theta": 500.0,
    "norm": "rmsnorm",
    "norm_eps": 1e-6,
    "activation": "swiglu",
    "bias": False,
    "tie_embeddings": False,
}


def gpt2_pair():
    config = GPT2Config(
        vocab_size=31, n_positions=12, n_embd=24, n_layer=LAYERS, n_head=4, pad_token_id=None
    )
    ours = ModelConfig(
        vocab_size=31,
        seq_len=12,
        embed_dim=24,
        num_layers=LAYERS,
        n_heads=4,
        positions="learned",
        activation="gelu_tanh",
        bias=True,
        qk_norm=False,
        tie_embeddings=True,
    )
    return GPT2LMHeadModel(config), GPT(ours), gpt2_weights


def gpt2_weights(theirs):
    weights = {
        "embedding.weight": theirs["transformer.wte.weight"],
        "position_embedding.weight": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
    }
    names = {
        "attention_norm": "ln_1",
        "attention.qkv_proj": "attn.c_attn",
        "attention.o_proj": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.up_proj": "mlp.c_fc",
        "feed_forward.down_proj": "mlp.c_proj",
    }
    for layer in range(LAYERS):
        for our_name, their_name in names.items():
            weight = theirs[f"transformer.h.{layer}.{their_name}.weight"]
            # GPT-2 keeps its matrices as inputs by outputs.
            weights[f"blocks.{layer}.{our_name}.weight"] = weight.T if weight.dim() > 1 else weight
            bias = theirs[f"transformer.h.{layer}.{their_name}.bias"]
            weights[f"blocks.{layer}.{our_name}.bias"] = bias
    return weights


def llama_pair():
    theirs = LlamaForCausalLM(LlamaConfig(**LLAMA_SHAPE))
    return theirs, GPT(ModelConfig(**OUR_LLAMA_SHAPE, qk_norm=False)), llama_weights


def qwen3_pair():
    theirs = Qwen3ForCausalLM(Qwen3Config(**LLAMA_SHAPE, head_dim=6))
    return theirs, GPT(ModelConfig(**OUR_LLAMA_SHAPE, qk_norm=True)), llama_weights


def llama_weights(theirs):
    weights = {
        "embedding.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "lm_head.weight": theirs["lm_head.weight"],
    }
    names = {
        "attention_norm": "input_layernorm",
        "attention.o_proj": "self_attn.o_proj",
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.gate_proj": "mlp.gate_proj",
        "feed_forward.up_proj": "mlp.up_proj",
        "feed_forward.down_proj": "mlp.down_proj",
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for our_name, their_name in names.items():
            if f"{prefix}.{their_name}.weight" in theirs:
                weight = theirs[f"{prefix}.{their_name}.weight"]
                weights[f"blocks.{layer}.{our_name}.weight"] = weight
        parts = [theirs[f"{prefix}.self_attn.{part}_proj.weight"] for part in "qkv"]
        weights[f"blocks.{layer}.attention.qkv_proj.weight"] = torch.cat(parts)
    return weights


@pytest.mark.parametrize("make_pair", [gpt2_pair, llama_pair, qwen3_pair])
@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
def test_logits_and_gradients(make_pair, backend, monkeypatch):
    torch.manual_seed(0)
    theirs, ours, as_ours = make_pair()
    theirs, ours = theirs.double().eval(), ours.double().eval()
    for parameter in theirs.parameters():
        # Every weight and bias off its initial value, so that none can hide a wrong mapping.
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    for block in ours.blocks:
        monkeypatch.setattr(block.attention, "backend", backend)
    ours.load_state_dict(as_ours(theirs.state_dict()))
    tokens = torch.randint(31, (2, 13))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    expected, logits = theirs(inputs).logits, ours(inputs)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for result in (expected, logits):
        F.cross_entropy(result.flatten(0, 1), targets.flatten()).backward()
    expected_gradients = as_ours({name: p.grad for name, p in named_weights(theirs).items()})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected_gradients[name], atol=1e-5, rtol=1e-4, msg=name
        )


def named_weights(model):
    return dict(model.named_parameters(remove_duplicate=False))
