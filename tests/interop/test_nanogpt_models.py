"""nanoGPT's checkpoints are read as it writes them, held against its model written out plainly."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gptlab
from gptlab.errors import CheckpointError, ConfigError, TokenizerError
from gptlab.interop import nanogpt, read_nanogpt

ARGS = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 12,
    "block_size": 16,
    "bias": True,
    "vocab_size": 270,
    "dropout": 0.0,
}


class Block(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, bias=bias) for _ in range(2))
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.attn.c_proj = nn.Linear(width, width, bias=bias)
        self.mlp.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.mlp.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn.c_attn(self.ln_1(x)).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn.c_proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


class Plain(nn.Module):
    """A GPT with nanoGPT's names."""

    def __init__(self, args: dict) -> None:
        super().__init__()
        width, bias = args["n_embd"], args["bias"]
        blocks = [Block(width, args["n_head"], bias) for _ in range(args["n_layer"])]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(args["vocab_size"], width),
                "wpe": nn.Embedding(args["block_size"], width),
                "h": nn.ModuleList(blocks),
                "ln_f": nn.LayerNorm(width, bias=bias),
            }
        )
        self.lm_head = nn.Linear(width, args["vocab_size"], bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids):
        x = self.transformer["wte"](ids) + self.transformer["wpe"].weight[: ids.shape[1]]
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def write(path: Path, *, prefix: str = "", extra: dict | None = None, **args: object) -> Plain:
    torch.manual_seed(0)
    model = Plain({**ARGS, **args})
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    moments = {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(5.0)}}
    torch.save(
        {
            "model": {**state, **(extra or {})},
            "optimizer": {"state": moments, "param_groups": []},
            "model_args": {**ARGS, **args},
            "iter_num": 5,
            "best_val_loss": torch.tensor(1.5),
            "config": {"dataset": "shakespeare", "learning_rate": 1e-3},
        },
        path,
    )
    return model.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_logits(tmp_path, bias, prefix):
    masks = {f"{prefix}transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16)}
    theirs = write(tmp_path / "ckpt.pt", prefix=prefix, extra=masks, bias=bias)
    ours = read_nanogpt(tmp_path / "ckpt.pt")
    ids = torch.randint(270, (2, 16))
    torch.testing.assert_close(ours(ids), theirs(ids), atol=1e-5, rtol=1e-5)
    assert not ours.training


def test_what_training_changes_stays_in_memory(tmp_path):
    write(tmp_path / "ckpt.pt")
    before = (tmp_path / "ckpt.pt").read_bytes()
    model = read_nanogpt(tmp_path / "ckpt.pt")
    for parameter in model.parameters():
        parameter.data.zero_()
    assert (tmp_path / "ckpt.pt").read_bytes() == before


def test_load_takes_a_tokenizer(tmp_path):
    write(tmp_path / "ckpt.pt")
    tokenizer = gptlab.train_bpe(texts=["a b c " * 50], vocab_size=262)
    tokenizer.save(tmp_path / "tok")
    for given in (tokenizer, tmp_path / "tok", str(tmp_path / "tok")):
        model, found = gptlab.load(tmp_path / "ckpt.pt", tokenizer=given)
        assert (model.config.vocab_size, found.vocab_size) == (270, 262)
    large = gptlab.BPETokenizer([], special_tokens=[f"<{i}>" for i in range(19)])
    with pytest.raises(ConfigError, match="has 275 tokens, but the model knows 270; give the tok"):
        gptlab.load(tmp_path / "ckpt.pt", tokenizer=large)
    with pytest.raises(CheckpointError, match="vocabulary of 270 is not GPT-2's; name the tokeniz"):
        gptlab.load(tmp_path / "ckpt.pt")


def test_gpt2s_tokenizer_where_the_vocabulary_is_padded_to_64(tmp_path, monkeypatch):
    write(tmp_path / "ckpt.pt", vocab_size=50_304, n_layer=1)
    tokenizer = gptlab.train_bpe(texts=["a b c " * 50], vocab_size=262)
    asked = []
    monkeypatch.setattr(nanogpt, "load_tokenizer", lambda name: asked.append(name) or tokenizer)
    assert gptlab.load(tmp_path / "ckpt.pt")[1] is tokenizer
    assert asked == ["tiktoken:gpt2"]

    def offline(_name):
        raise TokenizerError("tiktoken can't fetch the encoding 'gpt2'")

    monkeypatch.setattr(nanogpt, "load_tokenizer", offline)
    with pytest.raises(CheckpointError, match="needs GPT-2's tokenizer: tiktoken can't fetch"):
        gptlab.load(tmp_path / "ckpt.pt")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    write(tmp_path / "ckpt.pt")
    content = torch.load(tmp_path / "ckpt.pt")
    torch.save({**content, "config": Hostile(tmp_path / "owned")}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="is damaged, or holds more than tensors"):
        gptlab.load(tmp_path / "ckpt.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["model_args"].update(n_kv_head=1), "model_args have the unknown 'n_kv_head'"),
        (lambda c: c["model_args"].pop("n_head"), "its model_args lack 'n_head'"),
        (lambda c: c["model_args"].update(n_head=5), "embed_dim is 12, which n_heads 5 does not d"),
        (lambda c: c["model_args"].update(n_embd=24), "but its model_args makes it"),
        (lambda c: c["model"].pop("transformer.ln_f.bias"), "lacks the tensor 'transformer.ln_f.b"),
        (lambda c: c.pop("model_args"), "is no checkpoint of nanoGPT, which has 'model' and"),
    ],
)
def test_what_does_not_fit(tmp_path, change, words):
    write(tmp_path / "ckpt.pt")
    content = torch.load(tmp_path / "ckpt.pt")
    change(content)
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError) as error:
        read_nanogpt(tmp_path / "ckpt.pt")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_file(tmp_path):
    write(tmp_path / "ckpt.pt")
    content = (tmp_path / "ckpt.pt").read_bytes()
    (tmp_path / "ckpt.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="is damaged, or holds more than tensors"):
        read_nanogpt(tmp_path / "ckpt.pt")
