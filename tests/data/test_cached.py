"""A corpus becomes tokens once, whole or not at all."""

import errno
import multiprocessing
from collections.abc import Iterable
from pathlib import Path

import pytest

from gptlab.corpus import open_corpus
from gptlab.data import prepare_cached, shard_files
from gptlab.errors import DataError
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.base import TokenArray

TEXTS = ["hello world\n", "good morrow, cat\n"]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    return tmp_path / "texts"


@pytest.fixture
def tokenizer() -> BPETokenizer:
    return BPETokenizer([(b"l", b"l"), (b"o", b"r")])


class Counting(BPETokenizer):
    """Counts how often it is asked to encode."""

    calls = 0

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        self.calls += 1
        return super().encode_to_arrays(texts)


def test_each_document_ends_in_the_end_of_sequence_token(folder, tokenizer, tmp_path):
    dataset = prepare_cached(open_corpus(folder), tokenizer, cache=tmp_path / "cache")
    expected = [id_ for text in TEXTS for id_ in [*tokenizer.encode(text), tokenizer.eos_id]]
    assert dataset.read(0, len(dataset)).tolist() == expected
    assert dataset.num_documents == 2
    assert dataset.document_ends[0] == len(tokenizer.encode(TEXTS[0])) + 1
    assert dataset.manifest["characters"] == dataset.manifest["bytes"] == sum(map(len, TEXTS))
    assert dataset.manifest["tokenizer"] == tokenizer.fingerprint()


def test_bytes_and_characters_are_counted_apart(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("déjà", encoding="utf-8")
    dataset = prepare_cached(open_corpus(tmp_path / "a.txt"), tokenizer, cache=tmp_path / "cache")
    assert (dataset.manifest["characters"], dataset.manifest["bytes"]) == (4, 6)


def test_the_second_time_nothing_is_encoded(folder, tmp_path):
    tokenizer = Counting([])
    first = prepare_cached(open_corpus(folder), tokenizer, cache=tmp_path / "cache")
    assert tokenizer.calls == 1
    second = prepare_cached(open_corpus(folder), tokenizer, cache=tmp_path / "cache")
    assert tokenizer.calls == 1
    assert first.folder == second.folder


def test_another_text_or_tokenizer_makes_another_dataset(folder, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    folders = {prepare_cached(open_corpus(folder), tokenizer, cache=cache).folder}
    folders.add(prepare_cached(open_corpus(folder), BPETokenizer([]), cache=cache).folder)
    (folder / "0.txt").write_text("other text")
    folders.add(prepare_cached(open_corpus(folder), tokenizer, cache=cache).folder)
    assert len(folders) == len(list(cache.iterdir())) == 3


def test_a_damaged_cache_is_made_again(folder, tokenizer, tmp_path):
    first = prepare_cached(open_corpus(folder), tokenizer, cache=tmp_path / "cache")
    tokens = first.read(0, len(first)).tolist()
    (first.folder / "tokens-00000.bin").unlink()
    again = prepare_cached(open_corpus(folder), tokenizer, cache=tmp_path / "cache")
    assert again.folder == first.folder
    assert again.read(0, len(again)).tolist() == tokens


def test_an_interrupted_preparation_leaves_nothing(folder, tmp_path):
    class Interrupted(BPETokenizer):
        def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
            raise KeyboardInterrupt(texts)

    with pytest.raises(KeyboardInterrupt):
        prepare_cached(open_corpus(folder), Interrupted([]), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_dropout_makes_another_dataset(folder, tokenizer, tmp_path):
    corpus, cache = open_corpus(folder), tmp_path / "cache"
    usual = prepare_cached(corpus, tokenizer, cache=cache)
    dropped = prepare_cached(corpus, tokenizer, cache=cache, dropout=0.99, seed=1)
    other_seed = prepare_cached(corpus, tokenizer, cache=cache, dropout=0.99, seed=2)
    assert len({usual.folder, dropped.folder, other_seed.folder}) == 3
    assert len(dropped) > len(usual)
    again = prepare_cached(corpus, tokenizer, cache=tmp_path / "new", dropout=0.99, seed=1)
    assert again.fingerprint() == dropped.fingerprint()


def test_a_file_that_turns_out_to_be_bad_leaves_nothing(folder, tokenizer, tmp_path):
    corpus = open_corpus(folder)
    (folder / "1.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        prepare_cached(corpus, tokenizer, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_part_without_text_is_refused(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 2)
    train, _ = open_corpus(tmp_path / "a.jsonl").split(0.1)
    with pytest.raises(DataError, match="has no text in this part of it; give a longer text"):
        prepare_cached(train, tokenizer, cache=tmp_path / "cache")


def test_a_full_disk_is_told_by_the_name_of_the_cache(folder, tokenizer, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_files.GrowingFile, "append", full)
    message = r"cache can't be written: No space left on device; make room on its disk"
    with pytest.raises(DataError, match=message):
        prepare_cached(open_corpus(folder), tokenizer, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def _prepare(folder: Path, cache: Path, results: "multiprocessing.Queue[int]") -> None:
    dataset = prepare_cached(open_corpus(folder), BPETokenizer([]), cache=cache)
    results.put(len(dataset.read(0, len(dataset))))


def test_two_processes_may_prepare_the_same_text(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_prepare, args=(folder, tmp_path / "cache", results))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    lengths = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert lengths == {sum(map(len, TEXTS)) + 2}
