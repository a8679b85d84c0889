"""Every format gives its texts exactly, in pieces, and says what is wrong with a file."""

import gzip
import json
import random
import sys
import tracemalloc

import pyarrow
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gptlab.corpus import arrow, compression, open_corpus
from gptlab.errors import DataError

exact = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MIB = 1 << 20
TEXTS = st.lists(st.none() | st.text("ab\n\r é😀\u2028\0", max_size=9), min_size=1, max_size=9)


def texts(path, **settings):
    return list(open_corpus(path, **settings).documents())


def refused(path, **settings):
    """The message about a file that was named itself."""
    with pytest.raises(DataError) as error:
        texts(path, **settings)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def json_lines(values):
    return "".join(json.dumps({"id": 1, "text": value}) + "\n" for value in values).encode()


def parquet_bytes(values, type_=None, *, row_group=4):
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"id": [0] * len(values), "text": pyarrow.array(values, type_)})
    parquet.write_table(table, sink, row_group_size=row_group)
    return sink.getvalue().to_pybytes()


@pytest.mark.usefixtures("small_pieces")
@exact
@given(members=st.lists(st.text(min_size=1, max_size=9).map(str.encode), min_size=1, max_size=4))
def test_text_is_read_exactly(stored, members):
    path = stored("a.txt", *members)
    if b"\0" in b"".join(members):
        assert "is a binary file; give a text file" in refused(path)
    else:
        assert texts(path) == [b"".join(members).decode()]


@pytest.mark.usefixtures("small_pieces")
@exact
@given(data=st.binary(min_size=1, max_size=20) | st.text(min_size=1).map(str.encode))
def test_what_is_not_utf8_is_refused_with_its_place_or_replaced(stored, data):
    path = stored("a.txt", data)
    assert texts(path, errors="replace") == [data.decode("utf-8", "replace")]
    try:
        expected = data.decode()
    except UnicodeDecodeError as error:
        if b"\0" not in data:
            place = f"(byte 0x{data[error.start]:02x} at offset {error.start}); convert it"
            assert f"is not UTF-8 text {place}" in refused(path)
    else:
        assert b"\0" in data or texts(path) == [expected]


def test_nul_after_the_head_is_text(stored):
    data = b"a" * 8192 + b"\0"
    assert texts(stored("late.txt", data)) == [data.decode()]
    assert "binary" in refused(stored("early.txt", data[1:]))


@exact
@given(values=TEXTS)
def test_rows_are_documents(stored, values):
    expected = [value for value in values if value is not None]
    assert texts(stored("a.jsonl", json_lines(values))) == expected
    assert texts(stored("a.ndjson", json_lines(values).replace(b"\n", b"\r\n\n"))) == expected
    for type_ in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary()):
        assert texts(stored("a.parquet", parquet_bytes(values, type_))) == expected


@pytest.mark.parametrize("before", [b"", b"\n"])
def test_a_byte_order_mark_counts_as_nothing_at_the_start_alone(stored, before):
    mark, line = b"\xef\xbb\xbf", b'{"text": "x"}\n'
    assert texts(stored("a.jsonl", mark + before + line + line)) == ["x", "x"]
    assert texts(stored("b.jsonl", mark)) == []
    assert "line 2 is no JSON object" in refused(stored("c.jsonl", line + mark + line))


def test_rows_of_several_batches_are_documents(stored, monkeypatch):
    monkeypatch.setattr(arrow, "_BATCH_ROWS", 3)
    values = [None, *map(str, range(20)), None]
    assert texts(stored("A.PARQUET", parquet_bytes(values))) == list(map(str, range(20)))


def test_the_field_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x", "text": 1}\n')
    assert texts(path, field="body") == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1, "b": 2}', "line 3 has no field 'text', only ['a', 'b']; name"),
        ('{"text": 5}', "line 3: field 'text' is no string but int; name"),
        ('{"text": "\\ud83d"}', "line 3: field 'text' holds half a surrogate pair; mend"),
        ('{"text": "x"', "line 3 is no JSON object; write"),
        ('["x"]', "line 3 is no JSON object; write"),
        ("[" * 100_000, "line 3 is no JSON object; write"),
        (b'{"text": "\xe9"}', "line 3 is not UTF-8 text (byte 0xe9); convert"),
    ],
)
def test_a_line_that_holds_no_text_is_refused(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"text": "x"}\n\n' + line + b"\n")
    assert message in refused(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, "has no field 'text', only ['a', 'b']; name"),
        ({"text": [None, 5]}, "row 2: field 'text' is no string but int; name"),
        ({"text": [{"a": "x"}]}, "row 1: field 'text' is no string but dict; name"),
        ({"text": [b"x", b"\xe9"]}, "row 2 is not UTF-8 text (byte 0xe9); convert"),
    ],
)
def test_a_row_that_holds_no_text_is_refused(tmp_path, table, message):
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    assert message in refused(tmp_path / "a.parquet")


def test_what_is_no_text_in_a_row_is_replaced(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"text": "\xe9"}\n{"text": "\\ud83d \\ud83d\\ude00"}\n')
    assert texts(lines, errors="replace") == ["\ufffd", "\ufffd 😀"]
    invalid = pyarrow.array([b"\xe9"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": invalid}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", errors="replace") == ["\ufffd"]
    assert "row 1 is not UTF-8 text" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("a.txt.gz", gzip.compress(b"some text, more text\n" * 9, mtime=0)),
        ("a.txt.zst", zstandard.ZstdCompressor().compress(b"some text, more text\n" * 9)),
        ("a.parquet", parquet_bytes(["some text", "more text"])),
    ],
)
def test_a_damaged_file_is_refused_and_in_a_folder_skipped(tmp_path, name, whole):
    (tmp_path / "good.txt").write_text("good")
    path = tmp_path / name
    broken = [whole[:cut] for cut in range(1, len(whole), 1 + len(whole) // 60)]
    for data in [*broken, whole[:-1], b"no such format", whole + b"rest"]:
        path.write_bytes(data)
        assert "is damaged (" in refused(path)
        corpus = open_corpus(tmp_path)
        assert (list(corpus.documents()), corpus.skipped) == (["good"], 1)


def test_rows_in_a_folder_count_as_text_and_their_faults_are_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    (tmp_path / "b.parquet").write_bytes(parquet_bytes(["y", "z"]))
    (tmp_path / "c.txt").write_text("w")
    assert texts(tmp_path) == ["x", "y", "z", "w"]
    (tmp_path / "a.jsonl").write_text('{"body": "x"}')
    with pytest.raises(DataError, match="line 1 has no field 'text', only"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("a.jsonl.zst", "zstandard", "zst"), ("a.parquet", "pyarrow", "parquet")],
)
def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, name, module, extra):
    path = tmp_path / name
    path.write_bytes(b"anything")
    (tmp_path / "good.txt").write_text("good")
    monkeypatch.setitem(sys.modules, module, None)
    assert f"needs the package {module}; run pip install 'gptlab[{extra}]'" in refused(path)
    with pytest.raises(DataError, match="needs the package"):
        open_corpus(tmp_path)


def test_a_large_file_is_never_read_whole(stored):
    """Neither the search, nor the reading, nor the split, nor the fingerprint holds it."""
    size = 12 * MIB
    noise = random.Random(0).randbytes(size // 2).hex()
    lines = [noise[start : start + 4096] for start in range(0, size, 4096)]
    paths = [
        stored("a.txt", noise.encode()),
        stored("a.jsonl", json_lines(lines)),
        stored("a.parquet", parquet_bytes(lines, row_group=len(lines))),
    ]
    del noise, lines
    tracemalloc.start()
    try:
        for path in paths:
            _, held_out = open_corpus([path, path.parent]).split(0.5)
            _, held_out = open_corpus(path).split(0.5)
            assert sum(len(piece) for stream in held_out.streams() for piece in stream) > MIB
            held_out.fingerprint()
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    longest = max(len(piece) for stream in open_corpus(paths[0]).streams() for piece in stream)
    assert longest <= compression.PIECE_BYTES
