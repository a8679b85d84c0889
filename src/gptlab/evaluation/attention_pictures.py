"""Attention of a layer as a picture: a panel for each head, queries down, keys across.

Letters: H heads, T query length, S key length.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from gptlab.evaluation.attention_maps import AttentionMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_DOTS = 100
# In inches: a weight's square, the least side of a panel, a letter of a label, and space around.
_CELL, _LEAST, _LETTER = 0.11, 1.2, 0.065
_TOP, _GAP, _RIGHT, _NARROWEST = 0.45, 0.4, 0.7, 4.0
_FONT_SIZE = 7
_LONGEST = 12
_TICKS = (0, 0.05, 0.25, 0.5, 1)


def draw_attention(attention: AttentionMap, path: Path) -> None:
    """Draw the weights of a layer's heads as a PNG.

    Colours are on one scale from 0 to 1 in all pictures, so that these can be compared, and go by
    the square root of a weight, so that small ones are seen.
    """
    # Slow to import, and of no use to a page of losses.
    from matplotlib.figure import Figure

    heads, T, S = attention.weights_HTS.shape
    down, across = _labels(attention.queries), _labels(attention.keys)
    beside, below = (_LETTER * max(map(len, labels)) + 0.15 for labels in (down, across))
    # A panel in inches, without and with what is around it.
    wide, high = max(S * _CELL, _LEAST), max(T * _CELL, _LEAST)
    step_x, step_y = wide + beside, high + below + _GAP
    columns = math.ceil(math.sqrt(heads))
    width = max(columns * step_x + _RIGHT, _NARROWEST)
    height = math.ceil(heads / columns) * step_y + _TOP
    figure = Figure(figsize=(width, height))

    def axes_at(left: float, top: float, wide: float, high: float) -> "Axes":
        return figure.add_axes(
            (left / width, 1 - (top + high) / height, wide / width, high / height)
        )

    figure.suptitle(attention.title, y=1 - 0.12 / height, va="top", fontsize=11, parse_math=False)
    for head, weights_TS in enumerate(attention.weights_HTS):
        row, column = divmod(head, columns)
        axes = axes_at(column * step_x + beside, _TOP + _GAP + row * step_y, wide, high)
        image = _draw_head(axes, weights_TS, down, across)
        axes.set_title(f"head {head + 1}", fontsize=9, pad=3)
    scale = axes_at(columns * step_x + 0.15, _TOP + _GAP, 0.1, _LEAST)
    figure.colorbar(image, cax=scale, ticks=_TICKS, format="%g")
    scale.tick_params(labelsize=_FONT_SIZE)
    figure.savefig(path, dpi=_DOTS, format="png")


def _draw_head(
    axes: "Axes", weights_TS: Tensor, queries: Sequence[str], keys: Sequence[str]
) -> "AxesImage":
    from matplotlib.colors import PowerNorm

    image = axes.imshow(
        weights_TS.numpy(),
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 1),
        aspect="auto",
        interpolation="none",
    )
    for set_ticks, texts in ((axes.set_xticks, keys), (axes.set_yticks, queries)):
        # A dollar sign is text here, no formula.
        set_ticks(range(len(texts)), texts, fontsize=_FONT_SIZE, parse_math=False)
    axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(length=0, pad=1)
    return image


def _labels(texts: Sequence[str]) -> list[str]:
    """Tokens as they are written beside a picture: spaces seen, cut, and in its font."""
    is_drawable = _drawable()
    short = (text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…" for text in texts)
    return [
        "".join(c if is_drawable(c) else f"<{ord(c):X}>" for c in text.replace(" ", "␣"))
        for text in short
    ]


def _drawable() -> Callable[[str], bool]:
    """Whether matplotlib's own font has a character; it would warn, and draw a box."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return lambda character: font.get_char_index(ord(character)) != 0
