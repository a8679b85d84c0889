"""Corpora: what counts as a document, and how a held-out part is split off."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data import Corpus, open_corpus
from gptlab.data.corpus import read_text
from gptlab.errors import DataError
from gptlab.tokenizer import train_bpe


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(corpus: Corpus) -> list[str]:
    return list(corpus.documents())


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_file_is_one_document(tmp_path):
    corpus = open_corpus(write(tmp_path / "a.txt", "hello\nworld\n"))
    assert texts(corpus) == ["hello\nworld\n"]
    assert corpus.name == "a"


def test_a_folder_is_searched_recursively_in_a_fixed_order(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b/c.txt", "c"):
        write(tmp_path / name, name)
    corpus = open_corpus(tmp_path)
    assert texts(corpus) == ["a/b/c.txt", "a/z.md", "b.txt", "c"]
    assert corpus.name == tmp_path.name
    assert corpus.skipped == 0


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in (".hidden", ".git/config", "a/.b/c.txt", "shown.txt"):
        write(tmp_path / name, name)
    corpus = open_corpus(tmp_path)
    assert texts(corpus) == ["shown.txt"]
    assert corpus.skipped == 0


def test_what_is_no_text_in_a_folder_is_counted_as_skipped(tmp_path):
    write(tmp_path / "good.txt", "good")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "image.png", b"\x89PNG\0\0")
    write(tmp_path / "latin.txt", "déjà".encode("latin1"))
    corpus = open_corpus(tmp_path)
    assert texts(corpus) == ["good"]
    assert corpus.skipped == 2


def test_a_dangling_link_is_no_file(tmp_path):
    write(tmp_path / "good.txt", "good")
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    assert texts(open_corpus(tmp_path)) == ["good"]


def test_a_single_file_that_is_not_utf8_names_byte_and_remedy(tmp_path):
    path = write(tmp_path / "latin.txt", b"abc\xe9def")
    with pytest.raises(DataError) as error:
        texts(open_corpus(path))
    message = one_line(error)
    for part in (str(path), "0xe9", "offset 3", "iconv"):
        assert part in message


@pytest.mark.parametrize("content", [b"ab\0cd", "wide".encode("utf-16")])
def test_a_single_binary_file_is_refused(tmp_path, content):
    path = write(tmp_path / "a.bin", content)
    with pytest.raises(DataError, match=r"UTF-8|binary") as error:
        texts(open_corpus(path))
    assert str(path) in one_line(error)


def test_empty_missing_and_textless_paths_are_refused(tmp_path):
    with pytest.raises(DataError, match="is empty; give a file") as error:
        open_corpus(write(tmp_path / "empty.txt", ""))
    one_line(error)
    with pytest.raises(DataError, match="does not exist; give") as error:
        open_corpus(tmp_path / "nowhere")
    one_line(error)
    write(tmp_path / "folder/image.png", b"\0")
    with pytest.raises(DataError, match="holds no text file; give") as error:
        open_corpus(tmp_path / "folder")
    one_line(error)


def test_a_file_that_went_away_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "text")
    corpus = open_corpus(path)
    path.unlink()
    with pytest.raises(DataError, match="can't be read: No such file"):
        texts(corpus)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "text")
    path.chmod(0)
    with pytest.raises(DataError, match="can't be read: Permission denied"):
        texts(open_corpus(path))


def test_line_ends_are_kept(tmp_path):
    content = "unix\nwindows\r\nmac\rseparators\u2028\x0bend"
    assert read_text(write(tmp_path / "a.txt", content)) == content
    assert texts(open_corpus(tmp_path)) == [content]


def test_a_file_is_split_at_a_lines_start(tmp_path):
    text = "".join(f"line {n}\n" for n in range(100))
    train, held_out = open_corpus(write(tmp_path / "a.txt", text)).split(0.1)
    (kept,), (rest,) = texts(train), texts(held_out)
    assert kept + rest == text
    assert kept.endswith("\n")
    assert rest.startswith("line ")
    assert len(rest) == pytest.approx(0.1 * len(text), abs=8)


@settings(max_examples=200, deadline=None)
@given(st.text("ab\n", min_size=2, max_size=60), st.floats(0.001, 0.999))
def test_a_file_is_split_into_two_parts_that_join(tmp_path_factory, text, share):
    path = write(tmp_path_factory.getbasetemp() / "split" / "a.txt", text)
    train, held_out = open_corpus(path).split(share)
    (kept,), (rest,) = texts(train), texts(held_out)
    assert kept + rest == text
    assert kept
    assert rest


def test_a_folder_of_one_file_is_split_like_the_file(tmp_path):
    write(tmp_path / "a.txt", "one\ntwo\nthree\nfour\n")
    train, held_out = open_corpus(tmp_path).split(0.3)
    assert texts(train)[0] + texts(held_out)[0] == "one\ntwo\nthree\nfour\n"


@pytest.fixture
def many(tmp_path) -> Path:
    for number in range(200):
        write(tmp_path / f"{number:03}.txt", f"text {number}")
    return tmp_path


def test_a_folder_is_split_by_whole_files(many):
    corpus = open_corpus(many)
    train, held_out = corpus.split(0.2)
    assert sorted(train.files + held_out.files) == sorted(corpus.files)
    assert not set(train.files) & set(held_out.files)
    assert 20 <= len(held_out.files) <= 60
    assert corpus.split(0.2) == (train, held_out)


def test_a_folders_split_stays_when_files_are_added(many):
    before = open_corpus(many).split(0.2)
    for number in range(50):
        write(many / f"new-{number}.txt", "more text " * 20)
    after = open_corpus(many).split(0.2)
    for old, new in zip(before, after, strict=True):
        assert set(old.files) <= set(new.files)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3])
def test_neither_part_of_a_folder_is_empty(tmp_path, share, count):
    for number in range(count):
        write(tmp_path / f"{number}.txt", "text")
    train, held_out = open_corpus(tmp_path).split(share)
    assert train.files
    assert held_out.files


def test_fingerprint_is_of_the_content(tmp_path):
    first = open_corpus(write(tmp_path / "a.txt", "text\nmore\n"))
    renamed = open_corpus(write(tmp_path / "other/b.txt", "text\nmore\n"))
    changed = open_corpus(write(tmp_path / "c.txt", "text\nless\n"))
    assert first.fingerprint() == renamed.fingerprint()
    assert first.fingerprint() != changed.fingerprint()
    parts = first.split(0.5)
    assert len({first.fingerprint(), *(part.fingerprint() for part in parts)}) == 3


def test_fingerprint_tells_one_document_from_two(tmp_path):
    write(tmp_path / "two/a.txt", "ab")
    write(tmp_path / "two/b.txt", "cd")
    write(tmp_path / "one/a.txt", "abcd")
    fingerprints = {open_corpus(tmp_path / name).fingerprint() for name in ("one", "two")}
    assert len(fingerprints) == 2


def test_a_split_skips_the_blank_lines_at_its_border(tmp_path):
    (tmp_path / "stories.txt").write_text("one one one\n\n\ntwo two two\n")
    train, evaluation = open_corpus(tmp_path / "stories.txt").split(0.6)
    assert list(train.documents()) == ["one one one\n\n\n"]
    assert list(evaluation.documents()) == ["two two two\n"]


def test_a_tokenizer_beside_the_texts_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("aaa bbb\n" * 9)
    train_bpe([tmp_path / "a.txt"], vocab_size=262).save(tmp_path / "a")
    assert open_corpus(tmp_path).files == (tmp_path / "a.txt",)


def test_runs_are_no_text(tmp_path):
    write(tmp_path / "a.txt", "aaa")
    for name in ("config.json", "metrics.jsonl", "samples.txt", "last-1/vocab.json"):
        write(tmp_path / "runs" / "one" / name, "{}")
    assert open_corpus(tmp_path).files == (tmp_path / "a.txt",)


def test_texts_beside_a_tokenizers_files_are_read(tmp_path):
    write(tmp_path / "a.txt", "aaa bbb")
    train_bpe(texts=["aaa"], vocab_size=261).save(tmp_path)
    assert open_corpus(tmp_path).files == (tmp_path / "a.txt",)
