"""Pairs of texts, a source and its target, as they stand in files.

pairs.tsv        a source, a tab and a target on each line
pairs.csv        a table whose first line names its fields
pairs.jsonl      {"source": "two", "target": "2"}, or {"translation": {"en": ..., "de": ...}}
text.en text.de  parallel files: line by line, the sources and the targets
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gptlab.corpus.compression import decompressed, opened_as_stored
from gptlab.corpus.formats import PROBE_BYTES, TextErrors, refuse_binary
from gptlab.corpus.records import has_rows, read_records, row_draw, suffix_of
from gptlab.corpus.rows import decoded, text_of
from gptlab.errors import DataError


class Pair(NamedTuple):
    """A text, and what is to be made of it."""

    place: str
    """Its file and its line, as in "pairs.tsv, line 3"; of parallel files that of the source."""
    draw: int
    """A number from `DRAWS` that depends on its place alone, by which pairs are split."""
    source: str
    target: str


@dataclass(frozen=True)
class PairFields:
    """Where rows have what; "translation.en" is the en within the object in translation.

    Raises:
        DataError: Both have one name.
    """

    source: str = "source"
    target: str = "target"

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise DataError(
                f"source and target would both be read from '{self.source}'; give --src_field and "
                "--tgt_field two names"
            )


def read_pairs(
    files: Sequence[str | Path],
    *,
    fields: PairFields,
    targets: Sequence[str | Path] = (),
    errors: TextErrors = "strict",
) -> list[Pair]:
    """The pairs of all `files`, in order.

    A line of a `.tsv` has no quotes: what is between the tabs is the text. If the first line has
    both names of `fields`, it says which columns they are; otherwise they are the first two.
    Further columns are passed over, and so are blank lines.

    Args:
        files: `.tsv`, `.csv` or `.jsonl`, or parallel texts; each may be compressed, with `.gz` or
            `.zst` at the end.
        fields: Where rows have the source and the target.
        targets: The files of the targets, one for each of `files`, if these are parallel texts.
        errors: About bytes that are not UTF-8.

    Raises:
        DataError: A file is missing, empty, damaged, binary or of another format, a line lacks a
            source or a target, or parallel files do not fit each other; the message names the
            line.
    """
    if not targets:
        return [pair for file in files for pair in _pairs_of(Path(file), fields, errors)]
    if len(targets) != len(files):
        raise DataError(
            f"there are {len(files)} file(s) of sources, but {len(targets)} of targets; name one "
            "for each"
        )
    return [
        pair
        for source, target in zip(files, targets, strict=True)
        for pair in _parallel_pairs(Path(source), Path(target), errors)
    ]


def _pairs_of(file: Path, fields: PairFields, errors: TextErrors) -> Iterator[Pair]:
    if suffix_of(file) == ".tsv":
        yield from _tab_separated_pairs(file, fields, errors)
        return
    if not file.exists():
        raise DataError(f"{file} does not exist; give a file of pairs, by its name alone")
    if not has_rows(file) and not file.is_dir():
        raise DataError(
            f"{file} has no pairs that can be read; give a file that ends in .tsv, .jsonl or "
            ".csv, or parallel texts and with --target_data the files of their targets"
        )
    for record in read_records(file, errors=errors):
        source, target = (
            _full(text_of(record.value(name), where, errors), where)
            for name in (fields.source, fields.target)
            for where in [f"{record.place}: field '{name}'"]
        )
        yield Pair(record.place, record.draw, source, target)


def _tab_separated_pairs(file: Path, fields: PairFields, errors: TextErrors) -> Iterator[Pair]:
    columns = (0, 1)
    is_first, is_empty = True, True
    for number, line in _lines(file, errors):
        if not line.strip():
            continue
        cells = line.split("\t")
        may_be_header, is_first = is_first, False
        if may_be_header and _is_header(f"{file}, line {number}", cells, fields):
            columns = (cells.index(fields.source), cells.index(fields.target))
            continue
        place = f"{file}, line {number}"
        if len(cells) <= max(columns):
            raise DataError(
                f"{place} has {len(cells)} column(s), but the target is in column "
                f"{max(columns) + 1}; put a tab between source and target"
                if columns == (0, 1)
                else f"{place} has {len(cells)} column(s), but the first line names "
                f"'{fields.source}' and '{fields.target}' as columns {columns[0] + 1} and "
                f"{columns[1] + 1}; put a tab between any two"
            )
        source = _full(cells[columns[0]], f"{place}: the source")
        target = _full(cells[columns[1]], f"{place}: the target")
        yield Pair(place, row_draw(file, number), source, target)
        is_empty = False
    if is_empty:
        raise DataError(f"{file} has no pairs; give a file with some")


def _is_header(place: str, cells: Sequence[str], fields: PairFields) -> bool:
    """Whether the first line names columns: with names of one's own, it must."""
    found = {fields.source, fields.target} & set(cells)
    if len(found) == 1 or (not found and fields != PairFields()):
        missing = min({fields.source, fields.target} - found)
        raise DataError(
            f"{place} names no column '{missing}', only {', '.join(cells)[:80]}; write the names "
            "of its columns, as in --src_field en --tgt_field de, or put a line of names before it"
        )
    return len(found) == 2


def _parallel_pairs(sources: Path, targets: Path, errors: TextErrors) -> Iterator[Pair]:
    for file in (sources, targets):
        if has_rows(file):
            raise DataError(
                f"{file} has rows, but parallel files are plain texts, one sentence a line; leave "
                "--target_data out, or give texts"
            )
    counts = [sum(1 for _ in _lines(file, errors)) for file in (sources, targets)]
    if counts[0] != counts[1]:
        raise DataError(
            f"{sources} has {counts[0]} lines, but {targets} has {counts[1]}; give files in which "
            "each line is the translation of the other's"
        )
    is_empty = True
    both = zip(_lines(sources, errors), _lines(targets, errors), strict=True)
    for (number, source), (_, target) in both:
        if not source.strip() and not target.strip():
            continue
        place = f"{sources}, line {number}"
        _full(source, place)
        _full(target, f"{targets}, line {number}")
        yield Pair(place, row_draw(sources, number), source, target)
        is_empty = False
    if is_empty:
        raise DataError(f"{sources} and {targets} have no pairs; give files with some")


def _lines(file: Path, errors: TextErrors) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers, without their ends and a byte order mark.

    Raises:
        DataError: The file is a folder, missing, empty, damaged or, if strict, binary or not UTF-8.
    """
    if file.is_dir():
        raise DataError(f"{file} is a folder; name the files with pairs that are in it")
    with opened_as_stored(file) as stored:
        stream = decompressed(file, stored)
        if errors == "strict":
            refuse_binary(file, stream.peek(PROBE_BYTES)[:PROBE_BYTES])
        for number, line in enumerate(stream, 1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            yield number, decoded(text, f"{file}, line {number}", errors).rstrip("\r\n")


def _full(text: str, where: str) -> str:
    if not text.strip():
        raise DataError(f"{where} is empty; fill it in, or leave the pair out")
    return text
