"""Hugging Face's GPT-2 moved by `torch.optim`, and ours by ours: the same weights at each step."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from gptlab.config import ModelConfig, OptimizerConfig
from gptlab.model import GPT
from gptlab.training.optimizers import make_optimizers, set_learning_rate

STEPS = 10
PARTS = {
    "attention_norm": "ln_1",
    "attention.qkv_proj": "attn.c_attn",
    "attention.o_proj": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up_proj": "mlp.c_fc",
    "feed_forward.down_proj": "mlp.c_proj",
}


def make_pair() -> tuple[GPT, GPT2LMHeadModel]:
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=31,
            n_positions=12,
            n_embd=16,
            n_layer=2,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            pad_token_id=None,
        )
    ).double()
    ours = GPT(
        ModelConfig(
            vocab_size=31,
            seq_len=12,
            embed_dim=16,
            num_layers=2,
            n_heads=4,
            positions="learned",
            activation="gelu_tanh",
            bias=True,
            qk_norm=False,
            tie_embeddings=True,
        )
    ).double()
    ours.load_state_dict(weights_of(theirs))
    return ours, theirs


def weights_of(theirs: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """Their weights under our names."""
    values = theirs.state_dict()
    weights = {
        "embedding.weight": values["transformer.wte.weight"],
        "position_embedding.weight": values["transformer.wpe.weight"],
        "norm.weight": values["transformer.ln_f.weight"],
        "norm.bias": values["transformer.ln_f.bias"],
    }
    for layer in range(2):
        for our_name, their_name in PARTS.items():
            weight = values[f"transformer.h.{layer}.{their_name}.weight"]
            # GPT-2 keeps its matrices as inputs by outputs.
            weights[f"blocks.{layer}.{our_name}.weight"] = weight.T if weight.ndim == 2 else weight
            bias = values[f"transformer.h.{layer}.{their_name}.bias"]
            weights[f"blocks.{layer}.{our_name}.bias"] = bias
    return weights


def known_optimizer(name: str, model: GPT2LMHeadModel) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), foreach=False)
    return torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, nesterov=True, foreach=False)


@pytest.mark.parametrize(
    ("name", "settings", "rate"),
    [
        ("adamw", {"weight_decay": 0.1}, 1e-2),
        ("sgd", {"weight_decay": 0.0, "momentum": 0.9}, 1e-1),
    ],
)
def test_ten_steps_give_the_same_weights_one_after_the_other(name, settings, rate):
    ours, theirs = make_pair()
    start = weights_of(theirs)["blocks.1.feed_forward.up_proj.weight"].clone()
    config = OptimizerConfig(optimizer=name, **settings)
    optimizers = make_optimizers(ours, config, products=torch.float32)
    known = known_optimizer(name, theirs)
    for step in range(STEPS):
        tokens = torch.randint(31, (4, 11))
        for model, optimizers_of_it in ((ours, optimizers), (theirs, (known,))):
            set_learning_rate(optimizers_of_it, rate * (step + 1) / STEPS)
            output = model(tokens[:, :-1])
            logits = output if model is ours else output.logits
            F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            for optimizer in optimizers_of_it:
                optimizer.step()
            model.zero_grad()
        for key, expected in weights_of(theirs).items():
            torch.testing.assert_close(ours.get_parameter(key), expected, rtol=1e-5, atol=1e-8)
    assert (ours.get_parameter("blocks.1.feed_forward.up_proj.weight") - start).norm() > 0.01
