"""The parts of a split together are the corpus, and neither is empty."""

import hashlib
import json
import random
import re
from itertools import chain

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
    path = write_rows(tmp_path / "a.jsonl", [None, *range_of_texts(count)])
    kept, held_out = map(texts, open_corpus(path).split(share))
    assert kept
    assert held_out
    expected = [text for text in range_of_texts(count) if draw(text) < share]
    if not expected:
        expected = [min(range_of_texts(count), key=draw)]
    if len(expected) == count:
        expected.remove(max(expected, key=draw))
    assert held_out == expected
    assert kept == [text for text in range_of_texts(count) if text not in set(held_out)]


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
    assert sorted(train.files + held_out.files) == sorted(corpus.files)
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
