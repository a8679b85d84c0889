"""Texts with labels, as they stand in files.

    sequence_classification  {"text": "fine", "label": "good"}
    regression               {"text": "fine", "label": 4.5}, or "label": [4.5, 0.1]
    token_classification     {"tokens": ["Ann", "sings"], "labels": ["NAME", "O"]}
    embedding                {"text": "fine", "text_2": "good", "label": 0.9}

In a table, several numbers or words of one value have spaces between them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gptlab.config.heads import TargetKind
from gptlab.corpus.formats import TextErrors
from gptlab.corpus.records import Record, read_records
from gptlab.corpus.split import DRAWS, drawn_border
from gptlab.errors import DataError


@dataclass(frozen=True)
class LabelledRow:
    """A text, or a pair of texts, and what is to be said of it."""

    place: str
    """Its file and line."""
    draw: int
    texts: tuple[str | tuple[str, ...], ...]
    """One, or the two of a pair; words, where each of them has a label."""
    label: tuple[str, ...] | tuple[float, ...]
    """A name, or one for each word; or numbers."""


@dataclass(frozen=True)
class Fields:
    """Where rows have what."""

    text: str
    label: str
    pair: str


def read_rows(
    files: Iterable[str], *, kind: TargetKind, fields: Fields, errors: TextErrors = "strict"
) -> list[LabelledRow]:
    """The rows of all `files`, in order.

    Args:
        files: JSON lines or tables.
        kind: What their labels are.
        fields: Where texts and labels are.
        errors: About bytes that are not UTF-8.

    Raises:
        DataError: A file can't be read, or a row lacks a text or a label of that kind; the message
            names its line.
    """
    return [
        _labelled(record, kind, fields)
        for file in files
        for record in read_records(file, errors=errors)
    ]


class _Drawn(Protocol):
    @property
    def draw(self) -> int: ...


_Row = TypeVar("_Row", bound=_Drawn)


def split_rows(rows: Sequence[_Row], dev_size: float) -> tuple[list[_Row], list[_Row]]:
    """A training part and a held-out one of about `dev_size`, drawn by each row's place alone.

    Raises:
        DataError: There is a single row.
    """
    border = drawn_border((row.draw for row in rows), part=DRAWS, share=dev_size)
    if border is None:
        raise DataError(
            f"there are too few rows to hold a part of them out: {len(rows)}; give more, or write "
            "--eval_data"
        )
    held_out = [row for row in rows if row.draw < border]
    return [row for row in rows if row.draw >= border], held_out


def labels_of(rows: Iterable[LabelledRow]) -> tuple[str, ...]:
    """The names that occur as labels, sorted."""
    return tuple(sorted({str(name) for row in rows for name in row.label}))


def _labelled(record: Record, kind: TargetKind, fields: Fields) -> LabelledRow:
    place = record.place
    label = record.value(fields.label)
    where = f"{place}: field '{fields.label}'"
    if kind == "word_classes":
        words = _words(record.value(fields.text), f"{place}: field '{fields.text}'")
        names = tuple(_name(part, where) for part in _list(label))
        if len(words) != len(names):
            raise DataError(
                f"{place} has {len(words)} words, but {len(names)} labels; give one for each word"
            )
        return LabelledRow(place, record.draw, (words,), names)
    texts = [_text(record.value(fields.text), f"{place}: field '{fields.text}'")]
    if kind == "similarity":
        texts.append(_text(record.value(fields.pair), f"{place}: field '{fields.pair}'"))
    if kind == "class":
        return LabelledRow(place, record.draw, tuple(texts), (_name(label, where),))
    numbers = tuple(_number(part, where) for part in _list(label))
    if kind == "similarity" and (len(numbers) != 1 or not -1 <= numbers[0] <= 1):
        raise DataError(
            f"{where} is {_shown(label)}, but a similarity is a number from -1 to 1; scale it"
        )
    return LabelledRow(place, record.draw, tuple(texts), numbers)


def _list(value: Any) -> Sequence[Any]:
    """Several values: a list, or what a table has between spaces."""
    if isinstance(value, str):
        return value.split() or [value]
    return value if isinstance(value, list) else [value]


def _words(value: Any, where: str) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise DataError(f"{where} is {_shown(value)}, but it should be a list of words; give some")
    return tuple(_text(word, where) for word in words)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} is {_shown(value)}, no string; name the text's field")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where} holds half a surrogate pair; mend or remove it") from None
    return value


def _name(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{where} is {_shown(value)}, no name of a label; give a string or a whole number"
        )
    return str(value)


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where} is {_shown(value)}, no number; give one, as in 4.5")
    return number


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
