"""Rows with all of their fields."""

import gzip
import json

import pytest

from gptlab.corpus import open_corpus
from gptlab.corpus.records import read_records
from gptlab.corpus.split import DRAWS
from gptlab.errors import DataError


def read(path):
    return [(record.place.split(", ")[1], record.values) for record in read_records(path)]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_json_lines(tmp_path):
    text = '\ufeff{"text": "a", "label": 1}\n\n{"text": "b", "label": [2.5]}\n'
    path = write(tmp_path / "a.jsonl", text)
    expected = [("line 1", {"text": "a", "label": 1}), ("line 3", {"text": "b", "label": [2.5]})]
    assert read(path) == expected
    packed = write(tmp_path / "a.jsonl.gz", gzip.compress(text.encode()))
    assert read(packed) == expected
    draws = [[record.draw for record in read_records(file)] for file in (path, packed)]
    assert draws[0] == draws[1]


def test_a_table_and_the_lines_of_its_rows(tmp_path):
    text = '\ufefftext,label\r\n"two\nlines, quoted ""so""",x\r\n\r\nplain,y\r\n'
    expected = [
        ("line 2", {"text": 'two\nlines, quoted "so"', "label": "x"}),
        ("line 5", {"text": "plain", "label": "y"}),
    ]
    assert read(write(tmp_path / "a.csv", text)) == expected
    tabs = "text\tlabel\none, two\tx\n"
    assert read(write(tmp_path / "a.tsv", tabs)) == [("line 2", {"text": "one, two", "label": "x"})]


def test_rows_are_drawn_as_those_of_a_corpus(tmp_path):
    rows = [json.dumps({"text": f"text {n}"}) for n in range(60)]
    path = write(tmp_path / "a.jsonl", "\n".join(rows))
    _, held_out = open_corpus(path).split(0.2)
    border = DRAWS.start + round(0.2 * (DRAWS.stop - DRAWS.start))
    drawn = [record.values["text"] for record in read_records(path) if record.draw < border]
    assert drawn == list(held_out.documents())
    assert 0 < len(drawn) < 60


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl is empty; give a file"),
        ("a.jsonl", b"\n\n", "a.jsonl has no rows; give a file with some"),
        ("a.csv", b"text,label\n", "a.csv has no rows; give a file with some"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "a.jsonl, line 2 is no JSON object; write one"),
        ("a.jsonl", b'{"a": 1}\n{"a": \xff}\n', "a.jsonl, line 2 is not UTF-8 text"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3 has 3 values, but the first line names 2 fields"),
        ("a.csv", b'a,b\n1,"2\n', "line 2 is damaged (unexpected end of data)"),
        ("a.csv", b"a,b\n1,\xff\n", "line 1 or soon after it is not UTF-8 text (byte 0xff)"),
        ("a.bin", b"x", "a.bin has no rows that can be read; give a file that ends in .jsonl"),
    ],
)
def test_what_can_not_be_read_is_one_line(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder; name the files with rows"):
        list(read_records(tmp_path))
    with pytest.raises(DataError, match="can't be read: No such file"):
        list(read_records(tmp_path / "a.jsonl"))


def test_a_field_that_is_missing_or_null(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": null, "b": 1}')
    record = next(read_records(path))
    with pytest.raises(DataError, match=r"line 1: field 'label' is missing in \['b', 'text'\]"):
        record.value("label")
    with pytest.raises(DataError, match=r"line 1: field 'text' is null in"):
        record.value("text")
