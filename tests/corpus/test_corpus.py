"""Corpora: which files count, what they are called, and what their fingerprint tells apart."""

import gzip
import os
from pathlib import Path

import pytest

from gptlab.corpus import Corpus, open_corpus
from gptlab.errors import ConfigError, DataError
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused_and_in_a_folder_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is no regular file; write the text") as error:
        open_corpus(tmp_path / "pipe")
    one_line(error)
    write(tmp_path / "good.txt", "good")
    assert texts(open_corpus(tmp_path)) == ["good"]


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
    write(tmp_path / "a.txt", content)
    assert texts(open_corpus(tmp_path)) == [content]


def test_fingerprint_is_of_the_content(tmp_path):
    first = open_corpus(write(tmp_path / "a.txt", "text\nmore\n"))
    renamed = open_corpus(write(tmp_path / "other/b.txt", "text\nmore\n"))
    changed = open_corpus(write(tmp_path / "c.txt", "text\nless\n"))
    assert first.fingerprint() == renamed.fingerprint()
    assert first.fingerprint() != changed.fingerprint()
    assert first.fingerprint() != open_corpus(tmp_path / "a.txt", errors="replace").fingerprint()
    parts = first.split(0.5)
    assert len({first.fingerprint(), *(part.fingerprint() for part in parts)}) == 3


def test_fingerprint_tells_one_document_from_two(tmp_path):
    write(tmp_path / "two/a.txt", "ab")
    write(tmp_path / "two/b.txt", "cd")
    write(tmp_path / "one/a.txt", "abcd")
    fingerprints = {open_corpus(tmp_path / name).fingerprint() for name in ("one", "two")}
    assert len(fingerprints) == 2


def test_fingerprint_tells_how_a_file_is_read(tmp_path):
    line = '{"text": "a", "other": "b"}\n'
    rows = write(tmp_path / "a.jsonl", line)
    readings = [
        open_corpus(rows),
        open_corpus(rows, field="other"),
        open_corpus(write(tmp_path / "a.txt", line)),
    ]
    assert len({reading.fingerprint() for reading in readings}) == 3
    assert len({text for reading in readings for text in texts(reading)}) == 3


def test_replace_keeps_a_folders_files_that_are_not_utf8_but_none_with_nul(tmp_path):
    write(tmp_path / "folder/latin.txt", "déjà".encode("latin1"))
    binary = write(tmp_path / "folder/image.png", b"\x89PNG\0")
    corpus = open_corpus(tmp_path / "folder", errors="replace")
    assert texts(corpus) == ["d\ufffdj\ufffd"]
    assert corpus.skipped == 1
    assert texts(open_corpus(binary, errors="replace")) == ["\ufffdPNG\0"]


def test_another_treatment_of_errors_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="errors is 'ignore'; choose one of strict, replace"):
        open_corpus(write(tmp_path / "a.txt", "a"), errors="ignore")  # type: ignore[arg-type]


def test_several_paths_are_one_corpus(tmp_path):
    write(tmp_path / "b/2.txt", "two")
    write(tmp_path / "b/1.txt", "one")
    write(tmp_path / "b/image.png", b"\0")
    named = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "x"}\n{"text": "y"}'))
    corpus = open_corpus([tmp_path / "b", str(named), tmp_path / "b" / "2.txt"])
    assert texts(corpus) == ["one", "two", "x", "y"]
    assert corpus.skipped == 1
    assert corpus.root == tmp_path / "b"
    assert corpus.name == "b and 2 more"
    assert open_corpus([named, named]).name == open_corpus(named).name == "a"


def test_each_of_several_paths_must_be_there(tmp_path):
    path = write(tmp_path / "a.txt", "a")
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_corpus([path, tmp_path / "nowhere"])
    with pytest.raises(DataError, match="the corpus has no path; give"):
        open_corpus([])


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
