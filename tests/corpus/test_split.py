"""The parts of a split together are the corpus, and neither is empty."""

import gzip
import hashlib
import json
import random
import re
from itertools import chain

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptlab.corpus import open_corpus
from gptlab.errors import DataError

exact = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SHARES = st.floats(0.001, 0.999)


def texts(corpus):
    return list(corpus.documents())


def cut(path, share, **settings):
    """The two parts of a single text."""
    (kept,), (held_out,) = map(texts, open_corpus(path, **settings).split(share))
    return kept, held_out


def draw(name):
    """A number from 0 to 1 for a file's path, or for a row's: that, a line's end and its number."""
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8]) / 2**64


def write_rows(path, values):
    path.write_text("".join(json.dumps({"text": value}) + "\n" for value in values))
    return path


def test_a_text_is_split_at_a_lines_start(stored):
    text = "".join(f"line {n}\n" for n in range(100))
    kept, held_out = cut(stored("a.txt", text.encode()), 0.1)
    assert kept + held_out == text
    assert kept.endswith("\n")
    assert held_out.startswith("line ")
    assert len(held_out) == pytest.approx(0.1 * len(text), abs=8)


def test_a_split_skips_the_blank_lines_at_its_border(stored):
    path = stored("a.txt", b"one one one\n\n\r\ntwo two two\n")
    assert cut(path, 0.6) == ("one one one\n\n\r\n", "two two two\n")


@pytest.mark.usefixtures("small_pieces")
@exact
@given(text=st.text("abé\n\r😀", min_size=2, max_size=40), share=SHARES)
def test_a_text_is_split_into_two_that_join(stored, text, share):
    data = text.encode()
    kept, held_out = cut(stored("a.txt", data), share)
    assert kept
    assert held_out
    assert kept + held_out == text
    border = min(max(round((1 - share) * len(data)), 1), len(data) - 1)
    line_end = re.compile(rb"[\r\n]+").search(data, border)
    if line_end and line_end.end() < len(data):
        assert len(kept.encode()) == line_end.end()
    else:
        assert abs(len(kept.encode()) - border) <= 3


@pytest.mark.parametrize("text", ["😀a", "a😀", "😀😀", "é\n"])
@pytest.mark.parametrize("share", [0.01, 0.4, 0.6, 0.99])
def test_two_characters_are_split_between_them(tmp_path, text, share):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert cut(tmp_path / "a.txt", share) == tuple(text)


@pytest.mark.usefixtures("small_pieces")
@exact
@given(
    data=st.lists(st.sampled_from("a é € 😀".encode()), min_size=8, max_size=30).map(bytes),
    share=SHARES,
)
def test_replaced_bytes_are_the_same_in_two_parts(stored, data, share):
    kept, held_out = cut(stored("a.txt", data), share, errors="replace")
    assert kept
    assert held_out
    assert kept + held_out == data.decode("utf-8", "replace")


@exact
@given(text=st.text("aé\n", min_size=9, max_size=60), first=SHARES, second=SHARES)
def test_a_part_is_split_again(stored, text, first, second):
    train, held_out = open_corpus(stored("a.txt", text.encode())).split(first)
    for part in (train, held_out):
        (whole,) = texts(part)
        if len(whole) > 1:
            (kept,), (rest,) = map(texts, part.split(second))
            assert kept
            assert rest
            assert kept + rest == whole


@pytest.mark.parametrize("content", ["a", "é", "😀"])
def test_a_single_character_is_not_split(stored, content):
    with pytest.raises(DataError, match="is too short to hold a part of it out; give a longer"):
        open_corpus(stored("a.txt", content.encode())).split(0.5)


def test_a_single_document_in_a_row_is_not_split(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["one text", None])
    with pytest.raises(DataError, match="is too short to hold a part of it out; give a longer"):
        open_corpus(path).split(0.5)


@exact
@given(count=st.integers(2, 40), share=SHARES)
def test_rows_are_split_by_the_draws_of_their_numbers(tmp_path, count, share):
    path = write_rows(tmp_path / "a.jsonl", [*range_of_texts(count), None])
    kept, held_out = map(texts, open_corpus(path).split(share))
    assert kept
    assert held_out
    expected = [text for text in range_of_texts(count) if row_draw(text) < share]
    if not expected:
        expected = [min(range_of_texts(count), key=row_draw)]
    if len(expected) == count:
        expected.remove(max(expected, key=row_draw))
    assert held_out == expected
    assert kept == [text for text in range_of_texts(count) if text not in set(held_out)]


def row_draw(text, name="a"):
    """The draw of a row whose text is its number in lines from 0."""
    return draw(f"{name}\n{int(text) + 1}")


def range_of_texts(count):
    return [str(number) for number in range(count)]


def test_rows_stay_in_their_part_when_others_are_appended(tmp_path):
    path = tmp_path / "a.jsonl"
    before = open_corpus(write_rows(path, range_of_texts(1500))).split(0.1)
    first = list(map(texts, before))
    assert len(first[1]) == pytest.approx(150, abs=50)
    after = open_corpus(write_rows(path, range_of_texts(2000))).split(0.1)
    for old, new in zip(first, map(texts, after), strict=True):
        assert set(old) < set(new)
    quarters = [texts(half) for part in after for half in part.split(0.5)]
    assert sorted(chain.from_iterable(quarters)) == sorted(range_of_texts(2000))
    assert len(quarters[0]) == pytest.approx(900, abs=100)


def test_a_folder_of_one_file_is_split_like_the_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\nfour\n")
    whole, folder = open_corpus(tmp_path / "a.txt"), open_corpus(tmp_path)
    assert list(map(texts, whole.split(0.3))) == list(map(texts, folder.split(0.3)))


@pytest.fixture
def many(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"text {number}")
    return tmp_path


def test_a_folder_is_split_by_whole_files(many):
    corpus = open_corpus(many)
    train, held_out = corpus.split(0.2)
    assert sorted([*train.files, *held_out.files]) == sorted(corpus.files)
    assert not set(train.files) & set(held_out.files)
    assert held_out.files == tuple(file for file in corpus.files if draw(file.name) < 0.2)
    assert 20 <= len(held_out.files) <= 60


def test_files_named_one_by_one_are_split_like_their_folder(many):
    files = sorted(many.iterdir())
    random.Random(0).shuffle(files)
    for named, found in zip(
        open_corpus(files).split(0.2), open_corpus(many).split(0.2), strict=True
    ):
        assert sorted(named.files) == sorted(found.files)


def test_a_folders_split_stays_when_files_are_added(many):
    before = open_corpus(many).split(0.2)
    for number in range(50):
        (many / f"new-{number}.txt").write_text("more text " * 20)
    after = open_corpus(many).split(0.2)
    for old, new in zip(before, after, strict=True):
        assert set(old.files) <= set(new.files)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("folders", ["ab", "abc"])
def test_neither_part_of_several_files_is_empty(tmp_path, share, folders):
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text("text")
    for path in (tmp_path, list(tmp_path.iterdir())):
        train, held_out = open_corpus(path).split(share)
        assert train.files
        assert held_out.files


@exact
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(lambda counts: sum(counts)),
    share=SHARES,
)
def test_files_with_rows_are_split_by_documents(tmp_path_factory, counts, share):
    folder = tmp_path_factory.mktemp("rows")
    draws = {"plain": draw("plain.txt")}
    for file, count in enumerate(counts):
        rows = [f"{file} {number}" for number in range(count)]
        write_rows(folder / f"{file}.jsonl", [*rows, None])
        draws |= {row: row_draw(number, f"{file}") for number, row in enumerate(rows)}
    (folder / "plain.txt").write_text("plain")
    corpus = open_corpus(folder)
    assert corpus.has_rows
    assert {
        "".join(item.pieces): item.draw for item in corpus.read() if hasattr(item, "pieces")
    } == {text: pytest.approx(number * 2**64) for text, number in draws.items()}
    kept, held_out = map(texts, corpus.split(share))
    ordered = sorted(draws, key=draws.__getitem__)
    count = sum(number < share for number in draws.values())
    assert set(held_out) == set(ordered[: min(max(count, 1), len(draws) - 1)])
    assert sorted(kept + held_out) == sorted(draws)
    assert [text for text in texts(corpus) if text in held_out] == held_out


def test_a_large_file_with_rows_is_split_like_small_ones(tmp_path):
    for number in range(3):
        write_rows(tmp_path / f"{number}.jsonl", range_of_texts(1000))
    train, held_out = open_corpus(tmp_path).split(0.1)
    assert train.files == held_out.files
    assert len(texts(held_out)) == pytest.approx(300, abs=60)
    small = open_corpus(tmp_path / "1.jsonl").split(0.1)
    assert set(texts(small[1])) <= set(texts(held_out))


def test_rows_are_split_alike_in_every_format_and_compression(tmp_path):
    plain = write_rows(tmp_path / "a.jsonl", range_of_texts(100))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    table = pyarrow.table({"text": range_of_texts(100)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    splits = [
        open_corpus(tmp_path / f"a{end}").split(0.3) for end in (".jsonl", ".jsonl.gz", ".parquet")
    ]
    assert len({tuple(texts(held_out)) for _, held_out in splits}) == 1


def test_rows_of_another_part_are_not_parsed(tmp_path, monkeypatch):
    _, held_out = open_corpus(write_rows(tmp_path / "a.jsonl", range_of_texts(200))).split(0.1)
    loads = json.loads
    parsed = []
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    assert len(texts(held_out)) == len(parsed)
    assert len(parsed) < 60


def test_each_bad_row_is_in_one_part_and_a_bad_file_in_both(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text": 1}\n' * 40)
    (tmp_path / "b.parquet").write_text("damaged")
    train, held_out = open_corpus(tmp_path, check=False).split(0.3)
    faults = [
        [item.row for item in part.read() if hasattr(item, "reason") and item.file == 0]
        for part in (train, held_out)
    ]
    assert sorted(faults[0] + faults[1]) == list(range(2, 81, 2))
    assert all(faults)
    for part in (train, held_out):
        assert [item.reason for item in part.read() if item.file == 1] == ["damaged"]


def test_a_split_without_two_documents_says_what_is_wrong_with_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"body": "y"}\n')
    with pytest.raises(DataError, match="line 2 has no field 'text', only"):
        open_corpus(path).split(0.5)


def test_the_fingerprint_of_a_part_of_rows_tells_where_they_are(tmp_path):
    """Because what is drawn depends on it."""
    for name in ("a.jsonl", "b.jsonl"):
        write_rows(tmp_path / name, range_of_texts(100))
    one, other = (open_corpus(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert one.fingerprint() == other.fingerprint()
    for part, other_part in zip(one.split(0.5), other.split(0.5), strict=True):
        assert texts(part) != texts(other_part)
        assert part.fingerprint() != other_part.fingerprint()
