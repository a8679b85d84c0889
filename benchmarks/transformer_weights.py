"""Where the weights of an encoder-decoder of others are in gptlab's.

A table says which tensors of theirs hold what: the tensors on either side of an entry, one below
the other, are the same numbers. It is read both ways, for weights and for gradients. `*` is the
number of a block, or the encoder and the decoder; `{}` stands for `weight` and `bias`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptlab.config import TransformerConfig
from gptlab.model import Transformer

Names = tuple[str, ...]
Tensors = Mapping[str, Tensor]

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
