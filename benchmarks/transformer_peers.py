"""Encoder-decoders of others, each with the model of gptlab's that has the same weights.

A table says which tensors of theirs hold what: the tensors on either side of an entry, one below
the other, are the same numbers. It is read both ways, for weights and for gradients. `*` is the
number of a block, or the encoder and the decoder; `{}` stands for `weight` and `bias`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
)

from gptlab.config import TransformerConfig
from gptlab.model import Transformer

Names = tuple[str, ...]
Tensors = Mapping[str, Tensor]
PAD, START, END = 0, 1, 2
FIRST = 3
"""The first id that is nothing special."""

TORCH: Mapping[Names, Names] = {
    ("encoder.embedding.weight",): ("source.weight",),
    ("decoder.embedding.weight",): ("target.weight",),
    ("decoder.lm_head.weight",): ("head.weight",),
    ("encoder.norm.{}",): ("core.encoder.norm.{}",),
    ("decoder.norm.{}",): ("core.decoder.norm.{}",),
    ("*.blocks.*.attention.qkv_proj.{}",): ("core.*.layers.*.self_attn.in_proj_{}",),
    ("*.blocks.*.attention.o_proj.{}",): ("core.*.layers.*.self_attn.out_proj.{}",),
    ("*.blocks.*.attention_norm.{}",): ("core.*.layers.*.norm1.{}",),
    (
        "decoder.blocks.*.cross_attention.q_proj.{}",
        "decoder.blocks.*.cross_attention.kv_proj.{}",
    ): ("core.decoder.layers.*.multihead_attn.in_proj_{}",),
    ("decoder.blocks.*.cross_attention.o_proj.{}",): (
        "core.decoder.layers.*.multihead_attn.out_proj.{}",
    ),
    ("decoder.blocks.*.cross_attention_norm.{}",): ("core.decoder.layers.*.norm2.{}",),
    ("*.blocks.*.feed_forward.up_proj.{}",): ("core.*.layers.*.linear1.{}",),
    ("*.blocks.*.feed_forward.down_proj.{}",): ("core.*.layers.*.linear2.{}",),
    ("encoder.blocks.*.feed_forward_norm.{}",): ("core.encoder.layers.*.norm2.{}",),
    ("decoder.blocks.*.feed_forward_norm.{}",): ("core.decoder.layers.*.norm3.{}",),
}
_OWN, _CROSS = "model.*.layers.*.self_attn", "model.decoder.layers.*.encoder_attn"
HUGGINGFACE: Mapping[Names, Names] = {
    ("decoder.embedding.weight",): ("model.shared.weight",),
    ("encoder.norm.{}",): ("model.encoder.layer_norm.{}",),
    ("decoder.norm.{}",): ("model.decoder.layer_norm.{}",),
    ("*.blocks.*.attention.qkv_proj.{}",): tuple(f"{_OWN}.{x}_proj.{{}}" for x in "qkv"),
    ("*.blocks.*.attention.o_proj.{}",): (f"{_OWN}.out_proj.{{}}",),
    ("*.blocks.*.attention_norm.{}",): (f"{_OWN}_layer_norm.{{}}",),
    ("decoder.blocks.*.cross_attention.q_proj.{}",): (f"{_CROSS}.q_proj.{{}}",),
    ("decoder.blocks.*.cross_attention.kv_proj.{}",): tuple(
        f"{_CROSS}.{x}_proj.{{}}" for x in "kv"
    ),
    ("decoder.blocks.*.cross_attention.o_proj.{}",): (f"{_CROSS}.out_proj.{{}}",),
    ("decoder.blocks.*.cross_attention_norm.{}",): (f"{_CROSS}_layer_norm.{{}}",),
    ("*.blocks.*.feed_forward.up_proj.{}",): ("model.*.layers.*.fc1.{}",),
    ("*.blocks.*.feed_forward.down_proj.{}",): ("model.*.layers.*.fc2.{}",),
    ("*.blocks.*.feed_forward_norm.{}",): ("model.*.layers.*.final_layer_norm.{}",),
}
# Of these the rows are coordinates of the model's width, and of other matrices the columns.
_WRITES = re.compile(r"\.(o_proj|down_proj)\.|norm\.")


@dataclass(frozen=True)
class Peer:
    """A model of others, and what makes a model of gptlab's the same."""

    model: nn.Module
    config: TransformerConfig
    table: Mapping[Names, Names]
    logits: Callable[..., Tensor]
    """Logits (B, T, V) by the model, of sources, their lengths, and targets and theirs."""
    scale: float = 1.0
    """Their one embedding counts so many times where it is read, and once as the head."""
    order: Tensor | None = None
    """Which of their coordinates is each of ours, if they are in another order."""
    positions: Tensor | None = None
    """Their table of positions, where ours has learned ones in its place."""

    def ours(self) -> Transformer:
        """The model of gptlab's, with their weights and their type of numbers."""
        model = Transformer(self.config).to(next(self.model.parameters()).dtype)
        model.load_state_dict(self.to_ours(self.trained()))
        return model.eval()

    def trained(self) -> dict[str, nn.Parameter]:
        """Their parameters that learn, by name."""
        named = self.model.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def to_ours(self, theirs: Tensors) -> dict[str, Tensor]:
        """Our tensors of theirs, which are weights."""
        ours = self._moved(theirs, {b: a for a, b in self.table.items()}, self._ours())
        if self.order is not None:
            ours = {name: _ordered(name, tensor, self.order) for name, tensor in ours.items()}
        if self.scale != 1:
            matrix = ours["decoder.embedding.weight"]
            ours["decoder.lm_head.weight"] = matrix
            ours["decoder.embedding.weight"] = matrix * self.scale
        if self.positions is not None:
            for part in ("encoder", "decoder"):
                ours[f"{part}.position_embedding.weight"] = self.positions
        return ours

    def to_theirs(self, ours: Tensors) -> dict[str, Tensor]:
        """Their tensors of ours, which are weights or gradients; with a scale only the latter."""
        ours = {name: x for name, x in ours.items() if "position_embedding" not in name}
        if self.scale != 1:
            head = ours.pop("decoder.lm_head.weight")
            read = ours["decoder.embedding.weight"]
            ours["decoder.embedding.weight"] = self.scale * read + head
        if self.order is not None:
            back = self.order.argsort()
            ours = {name: _ordered(name, tensor, back) for name, tensor in ours.items()}
        sizes = {name: len(parameter) for name, parameter in self.trained().items()}
        return self._moved(ours, self.table, sizes)

    def _ours(self) -> dict[str, int]:
        with torch.device("meta"):
            return {name: len(p) for name, p in Transformer(self.config).named_parameters()}

    @staticmethod
    def _moved(
        tensors: Tensors, table: Mapping[Names, Names], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """The tensors on the other side of a table, whose first dimensions are `sizes`."""
        left, moved = dict(tensors), {}
        for given, wanted in table.items():
            for match in [m for name in left if (m := _pattern(given[0]).fullmatch(name))]:
                names, others = ([_named(one, match) for one in side] for side in (given, wanted))
                whole = torch.cat([left.pop(name).detach() for name in names])
                parts = whole.split([sizes[name] for name in others])
                moved |= dict(zip(others, parts, strict=True))
        if left:
            raise ValueError(f"no entry of the table has {min(left)}")
        return moved


def _pattern(name: str) -> re.Pattern[str]:
    """What an entry's name stands for: `*` behind `blocks` or `layers` is a number, else a part."""
    parts = re.escape(name).replace(r"\{\}", "(?P<kind>weight|bias)")
    parts = re.sub(r"(layers|blocks)\\\.\\\*", r"\1\\.(?P<block>\\d+)", parts)
    return re.compile(parts.replace(r"\*", "(?P<part>encoder|decoder)"))


def _named(name: str, match: re.Match[str]) -> str:
    found = {"part": "", "block": "", "kind": "", **match.groupdict()}
    name = re.sub(r"(layers|blocks)\.\*", rf"\1.{found['block']}", name)
    return name.replace("*", found["part"]).replace("{}", found["kind"])


def _ordered(name: str, tensor: Tensor, order: Tensor) -> Tensor:
    if _WRITES.search(name):
        return tensor[order]
    return tensor[:, order] if tensor.ndim == 2 else tensor


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer` with embeddings, the paper's positions, and a head."""

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.source = nn.Embedding(config.source_size, width)
        self.target = nn.Embedding(config.vocab_size, width)
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        layer = {
            "d_model": width,
            "nhead": config.n_heads,
            "dim_feedforward": config.hidden_dim,
            "dropout": 0.0,
            "activation": {"relu": F.relu, "gelu": F.gelu}[config.activation],
            "batch_first": True,
            "norm_first": config.norm_place == "pre",
        }
        self.core = nn.Transformer(
            **layer,
            num_decoder_layers=config.num_layers,
            custom_encoder=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(**layer),
                config.encoder_layers or config.num_layers,
                norm=nn.LayerNorm(width),
                enable_nested_tensor=False,
            ),
        )
        if config.norm_place == "post":
            # It puts a norm behind the last one, which the paper does not.
            self.core.encoder.norm = self.core.decoder.norm = None
        places = torch.arange(config.seq_len).double().unsqueeze(1)
        angles = places / 10_000 ** (torch.arange(0, width, 2).double() / width)
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        self.register_buffer("positions", table.float(), persistent=False)

    def forward(
        self, source: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor
    ) -> Tensor:
        """(B, T, V)."""
        source_places, target_places = filling(source, lengths), filling(target, target_lengths)
        T = target.shape[1]
        hidden = self.core(
            self._embedded(self.source, source),
            self._embedded(self.target, target),
            tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1),
            tgt_is_causal=True,
            src_key_padding_mask=source_places,
            tgt_key_padding_mask=target_places,
            memory_key_padding_mask=source_places,
        )
        logits: Tensor = self.head(hidden)
        return logits

    def _embedded(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        rows: Tensor = embedding(tokens) * math.sqrt(embedding.embedding_dim)
        return rows + self.positions[: tokens.shape[1]]


def torch_peer(config: TransformerConfig, dtype: torch.dtype) -> Peer:
    """`torch.nn.Transformer` of these settings."""
    model = drawn(TorchTransformer(config)).to(dtype)
    return Peer(model, config, TORCH, model)


def marian_peer(shape: Mapping[str, int], dtype: torch.dtype, *, scale: bool = True) -> Peer:
    """Marian: norms behind the parts; its sines stand before all of its cosines."""
    model = drawn(MarianMTModel(MarianConfig(**_theirs(shape), scale_embedding=scale)))
    half = shape["embed_dim"] // 2
    return Peer(
        model.to(dtype),
        _ours(shape, norm_place="post", positions="sinusoidal", tie_embeddings=scale),
        HUGGINGFACE,
        lambda *rows: _huggingface(model, *rows),
        scale=1.0 if scale else shape["embed_dim"] ** -0.5,
        order=torch.arange(2 * half).view(2, half).T.flatten(),
    )


def m2m_peer(shape: Mapping[str, int], dtype: torch.dtype, *, scale: bool = True) -> Peer:
    """M2M-100, and NLLB: norms before the parts; sinusoids of other frequencies."""
    model = drawn(
        M2M100ForConditionalGeneration(M2M100Config(**_theirs(shape), scale_embedding=scale))
    )
    model.to(dtype)
    table = model.model.encoder.embed_positions.weights[PAD + 1 :][: shape["seq_len"]]
    return Peer(
        model,
        _ours(shape, norm_place="pre", positions="learned", tie_embeddings=not scale),
        HUGGINGFACE,
        lambda *rows: _huggingface(model, *rows),
        scale=shape["embed_dim"] ** 0.5 if scale else 1.0,
        positions=table,
    )


def _theirs(shape: Mapping[str, int]) -> dict[str, Any]:
    ff = shape["expansion_factor"] * shape["embed_dim"]
    heads, layers = shape["n_heads"], shape["num_layers"]
    return {
        "vocab_size": shape["vocab_size"],
        "decoder_vocab_size": shape["vocab_size"],
        "max_position_embeddings": shape["seq_len"],
        "d_model": shape["embed_dim"],
        "encoder_layers": shape["encoder_layers"],
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ff,
        "decoder_ffn_dim": ff,
        "activation_function": "relu",
        "pad_token_id": PAD,
        "bos_token_id": START,
        "decoder_start_token_id": START,
        "eos_token_id": END,
        "forced_eos_token_id": None,
    }


def _ours(shape: Mapping[str, int], **settings: Any) -> TransformerConfig:
    return TransformerConfig(**shape, **settings, activation="relu", bias=True, qk_norm=False)


def _huggingface(
    model: nn.Module, source: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor
) -> Tensor:
    found = model(
        input_ids=source.masked_fill(filling(source, lengths), PAD),
        attention_mask=(~filling(source, lengths)).long(),
        decoder_input_ids=target.masked_fill(filling(target, target_lengths), PAD),
    )
    logits: Tensor = found.logits
    return logits


def filling(tokens: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1]) >= lengths.unsqueeze(1)


def drawn(model: Any, *, std: float = 0.2, seed: int = 0) -> Any:
    """The model with every weight off its first value, so that none can hide a wrong mapping."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(mean=parameter.mean().item(), std=std)
    return model.eval()


def rows(
    lengths: Sequence[int], *, vocab_size: int, longest: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows of ids that are nothing special, filled up with others, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), longest or max(lengths))
    tokens = torch.randint(FIRST, vocab_size, shape, generator=generator)
    return tokens, torch.tensor(lengths)


def loss_of(logits: Tensor, target: Tensor, target_lengths: Tensor) -> Tensor:
    """Mean cross-entropy of each target's next tokens, those that are there."""
    labels = target.masked_fill(filling(target, target_lengths), -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
