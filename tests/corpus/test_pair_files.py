"""Pairs of texts, as they are read from files."""

import gzip
import json

import pytest

from gptlab.corpus.pairs import PairFields, read_pairs
from gptlab.corpus.records import read_records
from gptlab.errors import DataError

FIELDS = PairFields()


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(*files, fields=FIELDS, **settings):
    pairs = read_pairs(files, fields=fields, **settings)
    return [(pair.place.rpartition("line ")[2], pair.source, pair.target) for pair in pairs]


def test_source_and_target_have_two_names():
    with pytest.raises(DataError, match=r"^source and target would both be read from 'en'; give -"):
        PairFields("en", "en")


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("source\ttarget\na\tb\n", FIELDS, [("2", "a", "b")]),
        ("target\tsource\na\tb\n", FIELDS, [("2", "b", "a")]),
        ("id\ten\tde\n7\tdog\tHund\n", PairFields("en", "de"), [("2", "dog", "Hund")]),
        ("dog\tHund\tby Ann\ncat\tKatze", FIELDS, [("1", "dog", "Hund"), ("2", "cat", "Katze")]),
        ('\ufeff"so", he said\t"so"\r\n\r\n a \tb\r\n', FIELDS, None),
        ("a\tb\nsource\ttarget\n", FIELDS, [("1", "a", "b"), ("2", "source", "target")]),
        ("\n \nsource\ttarget\na\tb\n", FIELDS, [("4", "a", "b")]),
    ],
)
def test_tab_separated_columns(tmp_path, text, fields, expected):
    expected = expected or [("1", '"so", he said', '"so"'), ("3", " a ", "b")]
    assert read(write(tmp_path / "a.tsv", text), fields=fields) == expected
    packed = write(tmp_path / "b.TSV.gz", gzip.compress(text.encode()))
    assert read(packed, fields=fields) == expected


def test_tables_and_json_lines_say_the_same(tmp_path):
    table = write(tmp_path / "a.csv", 'target,source\n"b, c",a\n')
    assert read(table) == [("2", "a", "b, c")]
    rows = write(tmp_path / "a.jsonl", '\n{"source": "a", "target": "b\\nc"}\n')
    assert read(rows, table) == [("2", "a", "b\nc"), ("2", "a", "b, c")]
    nested = {"translation": {"en": "dog", "de": {"x": "Hund"}}, "a.b": "flat"}
    rows = write(tmp_path / "a.ndjson", json.dumps(nested))
    fields = PairFields("translation.en", "translation.de.x")
    assert read(rows, fields=fields) == [("1", "dog", "Hund")]
    assert read(rows, fields=PairFields("a.b", "translation.en")) == [("1", "flat", "dog")]


def test_parallel_files(tmp_path):
    sources = write(tmp_path / "a.en", "dog\r\n\r\ncat \u2028x\n")
    targets = write(tmp_path / "a.de", "\ufeffHund\n \nKatze")
    expected = [("1", "dog", "Hund"), ("3", "cat \u2028x", "Katze")]
    assert read(sources, targets=[targets]) == expected
    packed = write(tmp_path / "b.de.gz", gzip.compress(b"Hund\n\nKatze\n"))
    assert read(sources, sources, targets=[targets, packed]) == expected * 2


def test_a_pair_is_drawn_by_its_line_whatever_the_format(tmp_path):
    table = write(tmp_path / "p.tsv", "a\tb\nc\td\n")
    rows = write(tmp_path / "p.jsonl.gz", gzip.compress(b'{"source": "x", "target": "y"}\n' * 2))
    drawn = [pair.draw for pair in read_pairs([table], fields=FIELDS)]
    assert drawn == [pair.draw for pair in read_pairs([rows], fields=FIELDS)]
    assert drawn == [record.draw for record in read_records(rows)]
    assert len(set(drawn)) == 2


def test_bytes_that_are_no_text_may_be_replaced(tmp_path):
    assert read(write(tmp_path / "a.tsv", b"a\xff\tb\n"), errors="replace") == [
        ("1", "a\ufffd", "b")
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", "a.tsv is empty; give a file with text in it"),
        ("a.tsv", b"source\ttarget\n\n", "a.tsv has no pairs; give a file with some"),
        (
            "a.tsv",
            b"a\tb\nab\n",
            "line 2 has 1 column(s), but the target is in column 2; put",
        ),
        ("a.tsv", b"x\ttarget\tsource\na\tb\n", "names 'source' and 'target' as columns 3 and 2"),
        ("a.tsv", b"a\t \n", "line 1: the target is empty; fill it in, or leave the pair out"),
        ("a.tsv", b"a\tb\n\tb\n", "line 2: the source is empty"),
        ("a.tsv", b"a\tb\n\xff\tb\n", "line 2 is not UTF-8 text (byte 0xff); convert it"),
        ("a.tsv", b"a\tb\n\0\tb\n", "a.tsv is a binary file; give a text file"),
        ("a.tsv.gz", b"a\tb\n", "a.tsv.gz is damaged"),
        ("a.jsonl", b'{"source": "a", "target": ""}\n', "line 1: field 'target' is empty"),
        ("a.jsonl", b'{"source": "a", "target": 5}\n', "field 'target' is no string but int"),
        ("a.jsonl", b'{"source": "a"}\n', "line 1: field 'target' is missing in ['source']"),
        ("a.csv", b"source,goal\na,b\n", "line 2: field 'target' is missing in ['goal', 'source']"),
        ("a.txt", b"a\tb\n", "no pairs that can be read; give a file that ends in .tsv, .jsonl or"),
    ],
)
def test_what_can_not_be_read_is_one_line(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ("a\nb\n", "x\n", "a.en has 2 lines, but TMP/a.de has 1; give files in which each line"),
        ("a\n\n", "x\ny\n", "a.en, line 2 is empty; fill it in, or leave the pair out"),
        ("a\nb\n", "x\n \n", "a.de, line 2 is empty"),
        ("\n", "\n", "a.en and TMP/a.de have no pairs; give files with some"),
    ],
)
def test_parallel_files_that_do_not_fit(tmp_path, sources, targets, message):
    files = write(tmp_path / "a.en", sources), write(tmp_path / "a.de", targets)
    with pytest.raises(DataError) as caught:
        read(files[0], targets=files[1:])
    assert message.replace("TMP", str(tmp_path)) in str(caught.value)


def test_what_is_no_file_or_of_another_kind(tmp_path):
    text, table = write(tmp_path / "a.en", "a"), write(tmp_path / "a.tsv", "a\tb")
    for settings in ({}, {"targets": [text]}):
        with pytest.raises(DataError, match="is a folder; name the files with"):
            read(tmp_path, **settings)
    with pytest.raises(DataError, match=r"gone\.tsv can't be read: No such file"):
        read(tmp_path / "gone.tsv")
    with pytest.raises(DataError, match=r"a\.tsv has rows, but parallel files are plain texts"):
        read(text, targets=[table])
    with pytest.raises(DataError, match=r"2 file\(s\) of sources, but 1 of targets; name one"):
        read(text, text, targets=[text])
    with pytest.raises(DataError, match=r"'t.en' is missing in \['de'\]"):
        read(write(tmp_path / "b.jsonl", '{"t": {"de": "x"}}'), fields=PairFields("t.en", "t.de"))
