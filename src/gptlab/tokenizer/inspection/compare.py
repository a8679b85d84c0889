"""Tokenizers side by side, as a table to be read."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.inspection.measure import Measurement, TokenCount, measure_all
from gptlab.tokenizer.inspection.picture import BORDER, columns, fitted, picture, wrapped

_LINE = 100
_GAP = "  "
_TOKENIZERS_A_TABLE = 4
_LONGEST = 5
_BEGINNING = 240


def compare(named: Mapping[str, Tokenizer], texts: Iterable[str]) -> str:
    """A table with a column per tokenizer, and how each cuts the beginning of the text.

    No line is wider than 100 columns; more than four tokenizers make several tables. For the
    numbers by themselves, call `as_dict` on what `measure_all` returns.

    Args:
        named: What to compare, by name.
        texts: As `measure_all` takes them.

    Raises:
        TokenizerError: There is nothing to compare, or a tokenizer can't take one of the texts.
    """
    if not named:
        raise TokenizerError("there are no tokenizers to compare; give at least one")
    stream = iter([texts] if isinstance(texts, str) else texts)
    first = next(filter(None, stream), "")
    measured = list(measure_all(named, chain([first], stream)).items())
    text = measured[0][1]
    lines = [f"{text.characters:,} characters of text, {text.bytes:,} bytes in UTF-8"]
    for start in range(0, len(measured), _TOKENIZERS_A_TABLE):
        lines += ["", *_table(dict(measured[start : start + _TOKENIZERS_A_TABLE]))]
    beginning = _beginning(first)
    for name, tokenizer in named.items():
        cut = picture(tokenizer, tokenizer.encode(beginning))
        lines += ["", fitted(f"The text begins, cut by {name}:", _LINE), *wrapped(cut, _LINE)]
    return "\n".join(lines)


def _table(measured: Mapping[str, Measurement]) -> list[str]:
    labels = [
        "",
        "ids in the vocabulary",
        "tokens of the text",
        "tokens per byte of text",
        "bytes of text per token",
        "ids that the text uses",
        "dead: tokens never used",
        "longest tokens in use",
        *[""] * (_LONGEST - 1),
    ]
    label_width = max(map(len, labels))
    width = (_LINE - label_width) // len(measured) - len(_GAP)
    cells = [_cells(name, values, width=width) for name, values in measured.items()]
    columns_of_cells = [_aligned(labels, left=True), *(_aligned(column) for column in cells)]
    lines = (_GAP.join(row).rstrip() for row in zip(*columns_of_cells, strict=True))
    return [line for line in lines if line]


def _cells(name: str, values: Measurement, *, width: int) -> list[str]:
    """The column of one tokenizer, from its name down."""
    longest = [_longest_cell(token, width) for token in values.longest[:_LONGEST]]
    return [
        fitted(name, width),
        f"{values.vocab_size:,}",
        f"{values.tokens:,}",
        f"{values.tokens_per_byte:.3f}",
        f"{values.bytes_per_token:.2f}",
        f"{values.used:,} ({values.share_used:.1%})",
        f"{len(values.dead_ids):,}",
        *longest,
        *[""] * (_LONGEST - len(longest)),
    ]


def _longest_cell(token: TokenCount, width: int) -> str:
    count = f" {token.count:,}×"
    return f"{BORDER}{fitted(token.text, width - len(count) - 2)}{BORDER}{count}"


def _aligned(cells: Sequence[str], *, left: bool = False) -> list[str]:
    width = max(map(columns, cells))
    blanks = [" " * (width - columns(cell)) for cell in cells]
    return [c + b if left else b + c for c, b in zip(cells, blanks, strict=True)]


def _beginning(text: str) -> str:
    """The first characters of `text`, up to the end of a word where there is one."""
    if len(text) <= _BEGINNING:
        return text
    head = text[:_BEGINNING]
    return head.rpartition(" ")[0] or head
