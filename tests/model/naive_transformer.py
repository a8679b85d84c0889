"""The Transformer written out: one pair of texts, one token and one head at a time, in float64.

Nothing of gptlab computes in it. Rotary angles and sinusoidal positions are rounded to float32, as
its tables are, so that all else can be held to float64.
"""

import math

import torch
from torch import Tensor

from gptlab.config import TransformerConfig
from gptlab.model import Transformer

SMALL = {"vocab_size": 11, "seq_len": 9, "embed_dim": 12, "num_layers": 2, "n_heads": 2}
PAPER = {
    "norm_place": "post",
    "positions": "sinusoidal",
    "activation": "relu",
    "bias": True,
    "qk_norm": False,
    "tie_embeddings": True,
}
KINDS = [
    {},
    PAPER,
    {**PAPER, "tie_embeddings": False, "src_vocab_size": 7, "encoder_layers": 1},
    {"norm": "rmsnorm", "activation": "swiglu", "n_kv_heads": 1, "tie_embeddings": True},
    {"positions": "learned", "activation": "gelu", "bias": True, "share_embeddings": False},
    {"positions": "none", "activation": "gelu_tanh", "qkv_bias": True, "logit_soft_cap": 2.0},
    {"norm_place": "post", "norm": "rmsnorm", "encoder_layers": 3, "head_width": 4},
]
SOURCES, TARGETS = ([1, 2, 3, 4, 5, 6], [3], [6, 0, 6]), ([9, 1, 10], [2, 2, 8, 0, 1], [7])


def make(*, seed=0, **changes):
    """A model whose every weight is off its first value, so that none can hide a mistake."""
    model = Transformer(TransformerConfig(**{**SMALL, **changes}), seed=seed).double().eval()
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=noise)
    return model


def filled(rows, *, to=None, ids=11):
    """Rows filled up with ids that are drawn, and their lengths."""
    lengths = [len(row) for row in rows]
    tokens = torch.randint(ids, (len(rows), to or max(lengths)))
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
    return tokens, torch.tensor(lengths)


def gradients(model, loss):
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return dict(zip((name for name, _ in model.named_parameters()), found, strict=True))


class NaiveTransformer:
    """A Transformer by its settings and its weights, by name; gradients flow into these."""

    def __init__(self, config, weights: dict[str, Tensor]) -> None:
        self.config, self.weights = config, weights

    def logits(self, source: list[int], target: list[int]) -> Tensor:
        """(T, V) for one source and one target, neither of them with filling."""
        c = self.config
        hidden = self.stack("decoder", target, memory=self.stack("encoder", source))
        matrix = "embedding" if c.tie_embeddings else "lm_head"
        found = hidden @ self.weights[f"decoder.{matrix}.weight"].T
        return (
            found
            if c.logit_soft_cap is None
            else c.logit_soft_cap * (found / c.logit_soft_cap).tanh()
        )

    def stack(self, part: str, ids: list[int], memory: Tensor | None = None) -> Tensor:
        c = self.config
        own = f"{part}.embedding.weight"
        rows = (
            self.weights[own] if own in self.weights else self.weights["decoder.embedding.weight"]
        )
        x = torch.stack([rows[i] for i in ids])
        if c.positions == "learned":
            x = x + self.weights[f"{part}.position_embedding.weight"][: len(ids)]
        if c.positions == "sinusoidal":
            x = x * c.embed_dim**0.5 + sinusoids(len(ids), c.embed_dim)
        layers = c.num_layers if part == "decoder" else c.encoder_layers or c.num_layers
        for layer in range(layers):
            x = self.block(f"{part}.blocks.{layer}", x, memory)
        return self.norm(f"{part}.norm", x) if c.norm_place == "pre" else x

    def block(self, name: str, x: Tensor, memory: Tensor | None) -> Tensor:
        before = x
        x = self.residual(
            f"{name}.attention_norm", x, lambda y: self.own_attention(name, y, memory)
        )
        if memory is not None:
            cross = f"{name}.cross_attention"
            x = self.residual(f"{cross}_norm", x, lambda y: self.cross_attention(cross, y, memory))
        if self.config.parallel_residual:
            read = self.norm(f"{name}.feed_forward_norm", before)
            return x + self.feed_forward(f"{name}.feed_forward", read)
        return self.residual(
            f"{name}.feed_forward_norm", x, lambda y: self.feed_forward(f"{name}.feed_forward", y)
        )

    def residual(self, norm: str, x: Tensor, part) -> Tensor:
        if self.config.norm_place == "pre":
            return x + part(self.norm(norm, x))
        return self.norm(norm, x + part(x))

    def own_attention(self, name: str, x: Tensor, memory: Tensor | None) -> Tensor:
        c, name = self.config, f"{name}.attention"
        mixed = self.linear(f"{name}.qkv_proj", x)
        kv = c.kv_heads * c.head_dim
        q, k, v = mixed.split([c.n_heads * c.head_dim, kv, kv], dim=1)
        q, k = self.heads(f"{name}.q_norm", q), self.heads(f"{name}.k_norm", k)
        if c.positions == "rope":
            q, k = turned(q, c.rope_theta), turned(k, c.rope_theta)
        return self.attend(name, q, k, self.heads(None, v), causal=memory is not None)

    def cross_attention(self, name: str, x: Tensor, memory: Tensor) -> Tensor:
        q = self.heads(f"{name}.q_norm", self.linear(f"{name}.q_proj", x))
        k, v = self.linear(f"{name}.kv_proj", memory).chunk(2, dim=1)
        k, v = self.heads(f"{name}.k_norm", k), self.heads(None, v)
        return self.attend(name, q, k, v, causal=False)

    def attend(self, name: str, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
        group = self.config.n_heads // self.config.kv_heads
        rows = []
        for place, queries in enumerate(q):
            seen = place + 1 if causal else len(k)
            heads = []
            for head, query in enumerate(queries):
                keys, values = k[:seen, head // group], v[:seen, head // group]
                weights = (keys @ query / math.sqrt(len(query))).exp()
                heads.append(weights @ values / weights.sum())
            rows.append(torch.cat(heads))
        return self.linear(f"{name}.o_proj", torch.stack(rows))

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        up, kind = self.linear(f"{name}.up_proj", x), self.config.activation
        if kind == "swiglu":
            gate = self.linear(f"{name}.gate_proj", x)
            up = up * gate / (1 + (-gate).exp())
        elif kind == "gelu":
            up = up * (1 + (up / math.sqrt(2)).erf()) / 2
        elif kind == "gelu_tanh":
            up = up * (1 + (math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)).tanh()) / 2
        else:
            up = up.clamp(min=0) ** (2 if kind == "relu2" else 1)
        return self.linear(f"{name}.down_proj", up)

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.config.norm == "layernorm":
            x = x - x.mean(dim=-1, keepdim=True)
        x = x / (x.square().mean(dim=-1, keepdim=True) + self.config.norm_eps).sqrt()
        x = x * self.weights[f"{name}.weight"]
        return x + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else x

    def heads(self, norm: str | None, x: Tensor) -> Tensor:
        x = x.view(len(x), -1, self.config.head_dim)
        if norm is None or not self.config.qk_norm:
            return x
        scale = (x.square().mean(dim=-1, keepdim=True) + self.config.norm_eps).sqrt()
        return x / scale * self.weights[f"{norm}.weight"]


def sinusoids(length: int, width: int) -> Tensor:
    rows = []
    for place in range(length):
        angles = [place / 10_000 ** (2 * (i // 2) / width) for i in range(width)]
        rows.append([math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(angles)])
    return torch.tensor(rows).double()


def turned(x: Tensor, theta: float) -> Tensor:
    """Each pair of coordinates (i, i + K/2) as a complex number, turned."""
    half = x.shape[-1] // 2
    angles = [[place * theta ** (-i / half) for i in range(half)] for place in range(len(x))]
    angles = torch.tensor(angles, dtype=torch.float64)
    turns = torch.complex(angles.cos().float().double(), angles.sin().float().double())
    pairs = torch.complex(x[..., :half], x[..., half:]) * turns.unsqueeze(1)
    return torch.cat((pairs.real, pairs.imag), dim=-1)
