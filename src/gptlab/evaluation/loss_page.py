"""Readings of texts as one page of HTML, which needs nothing but itself.

All that is of a text or of the user is escaped. The page's own script, which sorts its tables, is
the only one that its policy lets a browser run, and nothing is loaded from anywhere.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import chain, repeat
from string import Template

from gptlab.evaluation.reading import Reading, ReadToken, totals
from gptlab.evaluation.token_figures import TokenFigures

_STANDS_OUT = 0.1
_COLUMNS = ("#", "token", "loss", "rank", "entropy")

Differences = dict[int, float]
"""By the place of each token that is predicted."""


def loss_page(models: Mapping[str, Sequence[Reading]], *, title: str) -> str:
    """The page of what models read, a column for each.

    Two that read the same tokens are compared one by one: their tables have a column of
    differences, and the tenth of the tokens where they differ most is underlined.

    Args:
        models: By name, the readings of the same texts in the same order, at least one.
        title: Of the page.
    """
    template = files("gptlab.evaluation").joinpath("loss_page.html").read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scale = math.log(max(one.vocab_size for one in chain.from_iterable(models.values())))
    between = _between(*models.values())
    sections = [
        _model(name, readings, scale=scale, between=own)
        for (name, readings), own in zip(models.items(), between, strict=True)
    ]
    return Template(template).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        title=escape(title),
        legend=_legend(scale, is_pair=any(map(any, between))),
        models="\n".join(sections),
    )


def differences(a: Reading, b: Reading) -> Differences:
    """By how many nats more `a` lost than `b` on each of the same tokens."""
    return {
        place: one.figures.nats - other.figures.nats
        for place, (one, other) in enumerate(zip(a.tokens, b.tokens, strict=True))
        if one.figures is not None and other.figures is not None
    }


def _between(*models: Sequence[Reading]) -> list[list[Differences]]:
    """Of each model and each of its texts the differences to the other model.

    They are empty where there is no other, or it did not read the same tokens.
    """
    if len(models) == 2:
        pairs = list(zip(*models, strict=True))
        if all(a.fingerprint == b.fingerprint and a.ids == b.ids for a, b in pairs):
            return [[differences(a, b) for a, b in pairs], [differences(b, a) for a, b in pairs]]
    return [[{} for _ in readings] for readings in models]


def _legend(scale: float, *, is_pair: bool) -> str:
    lines = [
        "Point at a token, or go to it with the Tab key, for how it was predicted. "
        f"Its colour is its loss, from 0 to the {scale:.2f} nats of a blind guess."
    ]
    if is_pair:
        lines.append(
            "A difference is the loss here less that of the other model; the tenth of the tokens "
            "with the largest ones is underlined."
        )
    return " ".join(lines)


def _model(
    name: str,
    readings: Sequence[Reading],
    *,
    scale: float,
    between: Sequence[Differences],
) -> str:
    """A model's column: its totals, then each text."""
    together = totals(readings)
    rows = [
        ("tokens predicted", f"{together.tokens:,}"),
        ("loss", f"{together.loss:.4f} nats per token"),
        ("perplexity", f"{together.perplexity:.4g}"),
        ("bits per byte", together.shown_bits),
        ("entropy", f"{together.entropy:.4f} nats"),
        ("token is first", f"{together.top1:.2%}"),
        ("token in first 5", f"{together.top5:.2%}"),
    ]
    figures = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    texts = map(_text, readings, repeat(scale), between)
    return f"<section><h2>{escape(name)}</h2><dl>{figures}</dl>\n{''.join(texts)}</section>"


def _text(reading: Reading, scale: float, between: Differences) -> str:
    """A text in colours, and its table."""
    apart = _largest(between)
    spans = "".join(
        _span(token, scale, is_apart=place in apart) for place, token in enumerate(reading.tokens)
    )
    source = "" if reading.source is None else f"<p>source:</p>{_box(escape(reading.source))}"
    return (
        f'{source}<p class="note">{escape(reading.note)}</p>\n{_box(spans)}\n'
        f"{_table(reading, between)}\n"
    )


def _box(html: str) -> str:
    return f'<div class="text">{html}</div>'


def _largest(between: Differences) -> set[int]:
    """The places of the tenth of all differences that are largest, without those that are none."""
    sizes = {place: abs(difference) for place, difference in between.items() if difference}
    count = math.ceil(_STANDS_OUT * len(sizes))
    return set(sorted(sizes, key=lambda place: -sizes[place])[:count])


def _span(token: ReadToken, scale: float, *, is_apart: bool) -> str:
    # A line of the text ends where its sign is.
    shown = escape(token.shown).replace("⏎", "⏎\n")
    if token.figures is None:
        return f"<span>{shown}</span>"
    names = "t apart" if is_apart else "t"
    heat = min(token.figures.nats / scale, 1.0)
    return (
        f'<span class="{names}" style="--h:{heat:.3f}" tabindex="0">{shown}'
        f'<span class="tip">{_tip(token, token.figures)}</span></span>'
    )


def _tip(token: ReadToken, figures: TokenFigures) -> str:
    return (
        f"<b>{_label(token.shown)}</b> loss {figures.nats:.3f}, rank {figures.rank:,}, "
        f"entropy {figures.entropy:.3f}; likeliest: {_likeliest(token)}"
    )


def _likeliest(token: ReadToken) -> str:
    return " · ".join(f"{_label(shown)} {share:.1%}" for shown, share in token.alternatives)


def _label(shown: str) -> str:
    """A token that stands alone, so that its spaces must be seen."""
    return escape(shown.replace(" ", "␣"))


def _table(reading: Reading, between: Differences) -> str:
    columns = [*_COLUMNS, *(["difference"] if between else []), "likeliest"]
    head = "".join(f'<th><button type="button">{name}</button></th>' for name in columns)
    rows = "".join(
        _row(place, token, token.figures, between.get(place))
        for place, token in enumerate(reading.tokens)
        if token.figures is not None
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(place: int, token: ReadToken, figures: TokenFigures, difference: float | None) -> str:
    after = () if difference is None else (_number(difference, "+.3f"),)
    cells: Iterable[str] = (
        _number(place + 1, "d"),
        f'<td class="s">{_label(token.shown)}</td>',
        _number(figures.nats, ".3f"),
        _number(figures.rank, ",d"),
        _number(figures.entropy, ".3f"),
        *after,
        f'<td class="s">{_likeliest(token)}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _number(value: float, layout: str) -> str:
    return f'<td class="n" data-v="{value:g}">{value:{layout}}</td>'
