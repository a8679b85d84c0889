"""Where the heads of a model look.

Letters: H heads, T query length, S key length.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.errors import DataError
from gptlab.evaluation.inspected import Inspected
from gptlab.evaluation.pair_reading import PairIds
from gptlab.evaluation.reading import shown_by
from gptlab.model import Encoder, Transformer
from gptlab.model.blocks import Block
from gptlab.model.multi_head import Attention, CrossAttention
from gptlab.tokenizer.pair import source_of

Layer = Attention | CrossAttention


@dataclass(frozen=True)
class AttentionMap:
    """The weights of a layer's heads."""

    name: str
    """Its kind and its layer, as in `cross-2`."""
    title: str
    weights_HTS: Tensor
    """How much each query takes of each key, float32, on the CPU."""
    queries: Sequence[str]
    """T tokens as they are shown."""
    keys: Sequence[str]
    """S tokens likewise."""


def text_maps(inspected: Inspected, ids: Sequence[int], *, most: int) -> list[AttentionMap]:
    """The self-attention of every layer of a GPT or an encoder over a text.

    Args:
        inspected: The model.
        ids: The text; what is beyond the model's seq_len is not read.
        most: How many tokens to show, from the first on. A GPT reads no more, for it does not look
            ahead.

    Raises:
        DataError: There is no token.
    """
    if not ids:
        raise DataError("the text has no tokens; give a longer one")
    model = inspected.model
    limit = model.config.seq_len
    read = ids[: limit if isinstance(model, Encoder) else min(most, limit)]
    shown = [*map(shown_by(inspected.tokenizer), read[:most])]
    title = f"self-attention{_note(shown, ids)}"
    kind = _Kind("attention", title, _self_attention(model.all_blocks), shown, shown)
    return _maps(inspected, [read], [kind])


def pair_maps(inspected: Inspected, pair: PairIds, *, most: int) -> list[AttentionMap]:
    """The attention of every layer of a Transformer: its encoder's, its decoder's, and across.

    Args:
        inspected: The model.
        pair: What it reads; the decoder's tokens are its inputs, of which each predicts the next.
        most: How many tokens to show, from the first on.

    Raises:
        ConfigError: The source or the target is longer than the model's seq_len.
    """
    model, tokenizer = inspected.model, inspected.tokenizer
    assert isinstance(model, Transformer)
    source = [*map(shown_by(source_of(tokenizer)), pair.source[:most])]
    inputs = [*map(shown_by(tokenizer), pair.inputs[:most])]
    of_source, of_inputs = _note(source, pair.source), _note(inputs, pair.inputs)
    encoder = _self_attention(model.encoder.all_blocks)
    blocks = model.decoder.all_blocks
    crosses = [block.cross_attention for block in blocks if block.cross_attention is not None]
    kinds = [
        _Kind("encoder", f"encoder{of_source}", encoder, source, source),
        _Kind("decoder", f"decoder{of_inputs}", _self_attention(blocks), inputs, inputs),
        _Kind("cross", f"decoder to source{of_inputs or of_source}", crosses, inputs, source),
    ]
    return _maps(inspected, [pair.source, pair.inputs], kinds)


@dataclass(frozen=True)
class _Kind:
    """What the maps of some layers have in common."""

    name: str
    title: str
    layers: Sequence[Layer]
    queries: Sequence[str]
    keys: Sequence[str]


def _note(shown: Sequence[str], ids: Sequence[int]) -> str:
    """What a title says where not all tokens are shown."""
    return f"\nthe first {len(shown)} of {len(ids)} tokens" if len(shown) < len(ids) else ""


def _self_attention(blocks: Sequence[Block]) -> list[Layer]:
    return [block.attention for block in blocks]


@torch.no_grad()
def _maps(
    inspected: Inspected, inputs: Sequence[Sequence[int]], kinds: Sequence[_Kind]
) -> list[AttentionMap]:
    """The maps of all `kinds` in one forward pass of the model on `inputs`."""
    arithmetic = inspected.arithmetic
    rows = [torch.tensor([ids], device=arithmetic.device) for ids in inputs]
    layers = [layer for kind in kinds for layer in kind.layers]
    with arithmetic.autocast():
        caught = _caught(layers, lambda: inspected.model(*rows))
        return [
            AttentionMap(
                f"{kind.name}-{number}",
                f"layer {number} of {len(kind.layers)}, {kind.title}",
                _shown(layer.weights(*caught[layer]), kind),
                kind.queries,
                kind.keys,
            )
            for kind in kinds
            for number, layer in enumerate(kind.layers, start=1)
        ]


def _shown(weights_1HTS: Tensor, kind: _Kind) -> Tensor:
    """A copy of what is shown alone, for the rest may be large."""
    return weights_1HTS[0, :, : len(kind.queries), : len(kind.keys)].clone().cpu()


def _caught(
    layers: Sequence[Layer], forward: Callable[[], object]
) -> dict[nn.Module, tuple[Any, ...]]:
    """What each layer reads in a forward pass: its weights are computed from that once more.

    So the model, its backend and its speed stay as they are. A cache, which a layer is given last,
    is none of it.
    """
    caught: dict[nn.Module, tuple[Any, ...]] = {}

    def catch(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        caught[layer] = inputs[:2]

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(catch).remove)
        forward()
    return caught
