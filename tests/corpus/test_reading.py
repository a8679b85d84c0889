"""Reading goes on behind what is no text, and from any place."""

import errno
import gzip
import io
import json
import os
import pickle
import random
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gptlab.corpus import Document, Unreadable, arrow, open_corpus
from gptlab.corpus.compression import NotTextError
from gptlab.errors import DataError

exact = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
GOOD = b'{"text": "good"}\n'


def items(corpus, **settings):
    """What is read: place, name, text or reason, message, in whole."""
    found = []
    for item in corpus.read(**settings):
        if isinstance(item, Document):
            content = ("", "".join(item.pieces))
        else:
            content = (item.reason, item.message)
        found.append((item.file, item.row, item.name, item.draw, item.stored, *content))
    return found


def reasons(corpus):
    return [(row, reason) for _, row, _, _, _, reason, _ in items(corpus)]


def listed(path, **settings):
    return open_corpus(path, check=False, **settings)


def parquet_bytes(table, row_group=4):
    sink = io.BytesIO()
    parquet.write_table(table, sink, row_group_size=row_group, compression="none")
    return sink.getvalue()


def arrow_bytes(values, type_=None, *, batch=4, new=pyarrow.ipc.new_stream):
    table = pyarrow.table({"id": [0] * len(values), "text": pyarrow.array(values, type_)})
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue()


def test_documents_have_their_place_their_name_and_how_much_has_been_read(stored, tmp_path):
    lines = stored("a.jsonl", b'{"text": "x"}\n\n{"text": "y"}\n')
    text = stored("b.txt", b"text")
    corpus = listed([lines, text])
    found = items(corpus)
    assert [(file, row, name) for file, row, name, *_ in found] == [
        (0, 1, f"{lines}, line 1"),
        (0, 3, f"{lines}, line 3"),
        (1, 0, f"{text}"),
    ]
    assert [item[-1] for item in found] == ["x", "y", "text"]
    assert [item[4] for item in found[1:]] == [lines.stat().st_size, text.stat().st_size]
    assert corpus.stored_size == lines.stat().st_size + text.stat().st_size


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b'{"text": "x"', "broken line", "line 2 is no JSON object; write"),
        (b"[" * 100_000, "broken line", "line 2 is no JSON object; write"),
        (b'["x"]', "broken line", "line 2 is no JSON object; write"),
        (b'{"a": 1}', "no such field", "line 2 has no field 'text', only ['a']; name"),
        (b'{"text": 5}', "not a string", "line 2: field 'text' is no string but int; name"),
        (b'{"text": null}', "null", "line 2: field 'text' is null; give"),
        (b'{"text": "\\ud83d"}', "half a surrogate pair", "line 2: field 'text' holds half"),
        (b'{"text": "\xe9"}', "not UTF-8", "line 2 is not UTF-8 text (byte 0xe9); convert"),
    ],
)
def test_a_line_that_holds_no_text_is_told_and_passed(stored, line, reason, message):
    path = stored("a.jsonl", GOOD + line + b"\n" + GOOD)
    first, told, last = items(listed(path))
    assert first[-1] == last[-1] == "good"
    assert last[1] == 3
    assert told[:3] == (0, 2, f"{path}, line 2")
    assert told[5] == reason
    assert message in told[-1]
    if reason == "null":
        assert list(open_corpus(path).documents()) == ["good", "good"]
    else:
        with pytest.raises(DataError) as error:
            list(open_corpus(path).documents())
        assert str(error.value) == told[-1]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "empty"),
        ("a.jsonl", b"", "empty"),
        ("a.parquet", b"", "empty"),
        ("a.arrow", b"", "empty"),
        ("a.txt", b"ab\0", "binary"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b"x" * 200_000 + b"\xe9", "not UTF-8"),
        ("a.txt.gz", gzip.compress(b"text", mtime=0)[:-1], "damaged"),
        ("a.txt.gz", b"text", "damaged"),
        ("a.parquet", b"text", "damaged"),
        ("a.parquet.gz", gzip.compress(b"", mtime=0), "damaged"),
        ("a.arrow", b"text", "damaged"),
        ("a.arrow.gz", gzip.compress(b"", mtime=0), "damaged"),
        ("a.parquet", parquet_bytes(pyarrow.table({"b": ["x"]})), "no such field"),
    ],
)
def test_a_file_that_is_no_text_is_told_and_the_next_one_read(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    after = tmp_path / "b.txt"
    after.write_text("after")
    told, text = items(listed(tmp_path))
    assert told[0] == 0
    assert told[2] == f"{path}"
    assert told[4:6] == (len(content), reason)
    assert text[-1] == "after"
    if reason != "empty":
        with pytest.raises(DataError) as error:
            list(listed(path).documents())
        assert str(error.value) == told[-1]
    else:
        assert list(listed(tmp_path).documents()) == ["after"]


def test_a_file_that_went_away_is_told(tmp_path):
    for name in ("a.txt", "b.jsonl", "c.parquet", "d.arrow", "e.txt"):
        (tmp_path / name).write_text("text")
    corpus = listed(tmp_path)
    for file in corpus.files[:-1]:
        file.unlink()
    *told, last = items(corpus)
    assert [(item[1], item[5]) for item in told] == [(0, "gone"), *[(1, "gone")] * 3]
    assert last[-1] == "text"
    assert corpus.stored_size == 4


def test_damage_that_is_found_late_raises_on_the_way_and_says_of_which_kind(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * (1 << 20) + b"\xe9")
    (document,) = listed(path).read()
    with pytest.raises(
        NotTextError, match=r"not UTF-8 text \(byte 0xe9 at offset 1048576"
    ) as error:
        list(document.pieces)
    assert error.value.reason == "not UTF-8"
    copy = pickle.loads(pickle.dumps(error.value))
    assert (str(copy), copy.reason) == (str(error.value), "not UTF-8")


def test_rows_before_a_damage_are_read(tmp_path):
    texts = [random.Random(number).randbytes(600).hex() for number in range(300)]
    data = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "b.txt").write_text("after")
    corpus = listed(tmp_path)
    *good, told, last = items(corpus)
    assert [item[-1] for item in good] == texts[: len(good)]
    assert 10 < len(good) < 290
    assert told[1] == len(good) + 1
    assert told[2] == f"{corpus.files[0]}, line {len(good) + 1}"
    assert told[5] == "damaged"
    assert last[-1] == "after"
    for start in ((0, told[1] - 1), (0, told[1]), (0, told[1] + 1)):
        assert items(corpus, start=start) == [i for i in items(corpus) if i[:2] >= start]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damage_in_a_table_is_found_at_the_same_place_from_anywhere(tmp_path, name, monkeypatch):
    monkeypatch.setattr(arrow, "_BATCH_ROWS", 2)
    rng = random.Random(0)
    texts = [rng.randbytes(40).hex() for _ in range(12)]
    if name == "a.parquet":
        whole = parquet_bytes(pyarrow.table({"text": texts}), row_group=3)
    else:
        whole = arrow_bytes(texts, batch=3)
    outcomes = set()
    for place in range(4, len(whole) - 8, 31):
        (tmp_path / name).write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
        corpus = listed(tmp_path / name)
        found = items(corpus)
        end = found[-1][1]
        outcomes.add(end)
        for row in range(end + 2):
            assert items(corpus, start=(0, row)) == [item for item in found if item[1] >= row]
    assert len(outcomes) > 3


ROWS = st.lists(
    st.sampled_from(
        [
            GOOD,
            b"\n",
            b"  \r\n",
            b"{\n",
            b'{"text": null}\n',
            b'{"text": 3}\n',
            b'{"a": 1}\n',
            b'{"text": "\\ud83d"}\n',
            b'{"text": "\xff"}\n',
            b'{"text": "long\\n' + b"y" * 99 + b'"}\n',
        ]
    ),
    max_size=8,
).map(b"".join)
TEXTS = st.sampled_from([b"", b"text\n", b"a\0b", b"\xe9", "é\n".encode() * 40])
TABLES = st.lists(st.none() | st.text("ab\né", max_size=3), max_size=9)
FILES = st.lists(
    st.tuples(st.just(".jsonl"), ROWS)
    | st.tuples(st.just(".txt"), TEXTS)
    | st.tuples(
        st.just(".parquet"),
        TABLES.map(
            lambda values: parquet_bytes(pyarrow.table({"text": pyarrow.array(values, "string")}))
        ),
    )
    | st.tuples(st.just(".arrow"), TABLES.map(lambda values: arrow_bytes(values, "string"))),
    min_size=1,
    max_size=4,
)


@exact
@given(files=FILES, compressed=st.booleans(), data=st.data())
def test_reading_agrees_with_streams_and_goes_on_from_anywhere(
    tmp_path_factory, files, compressed, data
):
    folder = tmp_path_factory.mktemp("corpus")
    for number, (suffix, content) in enumerate(files):
        name = f"{number}{suffix}" + ".gz" * compressed
        (folder / name).write_bytes(gzip.compress(content, 1) if compressed else content)
    corpus = listed(folder, errors=data.draw(st.sampled_from(["strict", "replace"])))
    found = items(corpus)
    places = [item[:2] for item in found]
    assert places == sorted(set(places))
    faults = [item for item in found if item[5] not in ("", "null", "empty")]
    if faults:
        with pytest.raises(DataError) as error:
            list(corpus.documents())
        assert str(error.value) == faults[0][-1]
    else:
        assert list(corpus.documents()) == [item[-1] for item in found if not item[5]]
    for start in [(file, row) for file in range(len(files) + 1) for row in range(10)]:
        assert items(corpus, start=start) == [item for item in found if item[:2] >= start]


def test_rows_before_the_start_are_not_parsed_and_files_before_it_not_opened(tmp_path, monkeypatch):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(GOOD * 50)
    corpus = listed(tmp_path)
    corpus.files[0].unlink()
    loads = json.loads
    parsed = []
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    assert len(items(corpus, start=(1, 41))) == 10
    assert len(parsed) == 10


def test_row_groups_before_the_start_are_not_read(tmp_path):
    texts = [random.Random(number).randbytes(2000).hex() for number in range(100)]
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_bytes(pyarrow.table({"text": texts}), row_group=10))
    content = bytearray(path.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    path.write_bytes(content)
    corpus = listed(path)
    assert [item[-1] for item in items(corpus, start=(0, 95))] == texts[94:]
    assert items(corpus)[-1][5] == "damaged"


def test_a_long_line_is_a_document(stored):
    text = random.Random(0).randbytes(150_000).hex() + "é"
    path = stored("a.jsonl", json.dumps({"text": text}).encode() + b"\n" + GOOD)
    assert [item[-1] for item in items(listed(path))] == [text, "good"]


def test_no_file_stays_open_for_a_short_text(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("text")
    documents = list(listed(tmp_path).read())
    for file in tmp_path.iterdir():
        file.write_text("other")
    assert ["".join(document.pieces) for document in documents] == ["text"] * 3


@pytest.mark.parametrize("new", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
@pytest.mark.parametrize(
    "type_",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.binary(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
        pyarrow.string_view(),
    ],
)
def test_arrow_files_have_rows(stored, new, type_):
    values = [None, *map(str, range(10)), "é\n😀"]
    path = stored("a.arrow", arrow_bytes(values, type_, new=new))
    found = items(listed(path))
    assert found[0][:3] == (0, 1, f"{path}, row 1")
    assert found[0][5] == "null"
    assert [item[-1] for item in found[1:]] == values[1:]
    sizes = [item[4] for item in found]
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < path.stat().st_size - 20 < sizes[-1] <= path.stat().st_size
    assert list(open_corpus(path.parent).documents()) == values[1:]


def test_arrow_files_that_are_cut_off_are_no_text_in_a_folder(tmp_path):
    whole = arrow_bytes(list(map(str, range(40))))
    (tmp_path / "a.arrow").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.txt").write_text("good")
    corpus = open_corpus(tmp_path)
    assert (list(corpus.documents()), corpus.skipped) == (["good"], 1)


def test_bytes_of_arrow_that_are_not_utf8_are_refused_or_replaced(tmp_path):
    path = tmp_path / "a.arrow"
    path.write_bytes(arrow_bytes([b"x", b"\xe9"], pyarrow.binary()))
    assert reasons(listed(path)) == [(1, ""), (2, "not UTF-8")]
    assert list(open_corpus(path, errors="replace").documents()) == ["x", "\ufffd"]


MACHINE_FAULTS = [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM]


@pytest.mark.parametrize("number", MACHINE_FAULTS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_fault_of_the_machine_is_none_of_a_file(tmp_path, monkeypatch, name, number):
    path = tmp_path / name
    path.write_bytes(GOOD)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), f"{path}")

    monkeypatch.setattr(Path, "open", refuse)
    for read in (
        lambda: items(listed(path)),
        lambda: list(listed(path).documents()),
        lambda: open_corpus(tmp_path),
    ):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            read()
        assert caught.value.errno == number


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_a_full_disk_loses_no_rows(tmp_path, monkeypatch):
    table = pyarrow.table({"text": ["x" * 1000] * 99})
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(parquet_bytes(table)))
    monkeypatch.setattr(arrow, "TemporaryFile", lambda: open("/dev/full", "w+b", buffering=0))  # noqa: PTH123, SIM115
    with pytest.raises(OSError, match="No space left on device"):
        items(listed(tmp_path))
    with pytest.raises(OSError, match="No space left on device"):
        open_corpus(tmp_path)


def test_the_fields_of_both_kinds_agree():
    assert [*Document._fields[:4], "stored"] == list(Unreadable._fields[:5])
