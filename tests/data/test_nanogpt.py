"""nanoGPT's files hold the same tokens, both ways."""

import errno
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data import DatasetWriter, TokenDataset, nanogpt, shard_writer, text_size
from gptlab.data.nanogpt import export_nanogpt, import_nanogpt
from gptlab.errors import DataError
from gptlab.tokenizer import BPETokenizer, load_tokenizer

TOKENIZER = BPETokenizer([(b"l", b"l"), (b"o", b"r"), ("é".encode()[:1], "é".encode()[1:])])
EOS = TOKENIZER.eos_id
TEXTS = ["hello world", "", "déjà vu 😀", "�"]


def write(folder: Path, documents: list[list[int]], *, vocab_size: int = 263, **facts: object):
    writer = DatasetWriter(folder, vocab_size=vocab_size, shard_tokens=7)
    for document in documents:
        writer.write(document)
        writer.end_document()
    writer.finish(**{"tokenizer": TOKENIZER.fingerprint(), "bytes": 1, "characters": 1} | facts)
    return folder


def encoded(texts: list[str]) -> list[list[int]]:
    return [[*TOKENIZER.encode(text), EOS] for text in texts]


def write_bin(path: Path, documents: list[list[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.array([id_ for document in documents for id_ in document], np.uint16).tofile(path)
    return path


@pytest.fixture(params=[3, 1 << 20])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(nanogpt, "_BLOCK", request.param)
    monkeypatch.setattr(text_size, "_BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
def test_a_dataset_becomes_what_nanogpt_reads(tmp_path):
    ids = list(range(40))
    write(tmp_path / "data", [ids[:15], ids[15:]])
    write(tmp_path / "data" / "dev", [[9, 8, 7]])
    export_nanogpt(TokenDataset(tmp_path / "data"), tmp_path / "out" / "nano")
    folder = tmp_path / "out" / "nano"
    assert sorted(path.name for path in folder.iterdir()) == ["train.bin", "val.bin"]
    data = np.memmap(folder / "train.bin", dtype=np.uint16, mode="r")
    block_size = 8
    for start in np.random.default_rng(0).integers(len(data) - block_size, size=20):
        x = data[start : start + block_size].astype(np.int64)
        y = data[start + 1 : start + 1 + block_size].astype(np.int64)
        assert x.tolist() == ids[start : start + block_size]
        assert y.tolist() == ids[start + 1 : start + 1 + block_size]
    assert len(data) == 40
    assert np.memmap(folder / "val.bin", dtype=np.uint16, mode="r").tolist() == [9, 8, 7]


def test_the_largest_id_of_uint16_fits(tmp_path):
    dataset = TokenDataset(write(tmp_path / "data", [[65535]], vocab_size=1 << 16))
    export_nanogpt(dataset, tmp_path / "nano")
    assert (tmp_path / "nano" / "train.bin").read_bytes() == b"\xff\xff"


def test_what_nanogpt_cannot_read_is_refused(tmp_path):
    large = TokenDataset(write(tmp_path / "large", [[1]], vocab_size=(1 << 16) + 1))
    with pytest.raises(
        DataError, match=r"a vocabulary of 65,537, but nanoGPT reads at most 65,536"
    ):
        export_nanogpt(large, tmp_path / "nano")
    held_out = {"share": 0.1, "seed": 0, "part": "train"}
    folder = write(tmp_path / "windows", [[1]], windows={"mode": "segment"}, held_out=held_out)
    windows = TokenDataset(folder)
    with pytest.raises(DataError, match=r"at random, .*; prepare .* with --split documents"):
        export_nanogpt(windows, tmp_path / "nano")
    assert not (tmp_path / "nano").exists()


def test_files_are_replaced_only_on_demand(tmp_path):
    dataset = TokenDataset(write(tmp_path / "data", [[1, 2]]))
    nano = tmp_path / "nano"
    write_bin(nano / "val.bin", [[5]])
    with pytest.raises(DataError, match=r"val.bin exists; choose another folder, or overwrite it"):
        export_nanogpt(dataset, nano)
    assert [path.name for path in nano.iterdir()] == ["val.bin"]
    export_nanogpt(dataset, nano, overwrite=True)
    assert [path.name for path in nano.iterdir()] == ["train.bin"]
    with pytest.raises(DataError, match=r"train.bin exists"):
        export_nanogpt(dataset, nano)


def test_a_full_disk_leaves_the_former_files(tmp_path, monkeypatch):
    write_bin(tmp_path / "nano" / "train.bin", [[5]])
    dataset = TokenDataset(write(tmp_path / "data", [[1, 2]]))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nanogpt, "_write", full)
    with pytest.raises(DataError, match=r"nano can't be written: No space left on device; make"):
        export_nanogpt(dataset, tmp_path / "nano", overwrite=True)
    assert [path.name for path in (tmp_path / "nano").iterdir()] == ["train.bin"]
    assert (tmp_path / "nano" / "train.bin").read_bytes() == b"\5\0"


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rest", ["", "no end é"])
def test_files_become_a_dataset_with_documents_and_sizes(tmp_path, rest):
    texts = TEXTS + ([rest] if rest else [])
    documents = encoded(TEXTS) + ([TOKENIZER.encode(rest)] if rest else [])
    write_bin(tmp_path / "nano" / "train.bin", documents)
    write_bin(tmp_path / "nano" / "val.bin", encoded(["held out"]))
    made = import_nanogpt(tmp_path / "nano", tmp_path / "data", tokenizer=TOKENIZER)
    made.verify()
    assert made.read(0, len(made)).tolist() == [id_ for ids in documents for id_ in ids]
    assert made.document_ends.tolist() == np.cumsum([len(ids) for ids in documents]).tolist()
    assert made.manifest["characters"] == len("".join(texts))
    assert made.manifest["bytes"] == len("".join(texts).encode())
    assert load_tokenizer(made.tokenizer).fingerprint() == TOKENIZER.fingerprint()
    dev = TokenDataset(made.dev, tokenizer=TOKENIZER.fingerprint())
    assert (dev.num_documents, dev.manifest["bytes"]) == (1, 8)
    assert dev.tokenizer is None
    export_nanogpt(made, tmp_path / "again")
    for name in ("train.bin", "val.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "nano" / name).read_bytes()


def test_a_single_file_is_all_there_is(tmp_path):
    path = write_bin(tmp_path / "x.bin", encoded(TEXTS))
    made = import_nanogpt(path, tmp_path / "data", tokenizer=TOKENIZER)
    assert made.num_documents == len(TEXTS)
    assert made.dev is None
    assert made.manifest["source"] == {"name": "x.bin"}


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("aé€😀�")), min_size=1, max_size=4),
    block=st.integers(1, 9),
)
def test_text_in_pieces_is_as_long_as_the_whole(texts, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_size, "_BLOCK", block)
        size = text_size.TextSize(TOKENIZER)
        for text in texts:
            ids = np.array(TOKENIZER.encode(text), np.uint16)
            for start in range(0, len(ids), 3):
                size.add(ids[start : start + 3])
            size.end_document()
    whole = "".join(texts)
    assert (size.characters, size.bytes) == (len(whole), len(whole.encode()))


def test_a_long_text_is_never_held_whole(monkeypatch):
    monkeypatch.setattr(text_size, "_BLOCK", 50)
    longest = 0

    class Watched(BPETokenizer):
        def decode(self, ids):
            nonlocal longest
            longest = max(longest, len(ids))
            return super().decode(ids)

    size = text_size.TextSize(Watched([]))
    ids = np.array(BPETokenizer([]).encode("😀" * 1000), np.uint16)
    for start in range(0, len(ids), 7):
        size.add(ids[start : start + 7])
    size.end_document()
    assert (size.characters, size.bytes) == (1000, 4000)
    assert longest < 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"train.bin has 0 bytes, which are no uint16 ids; give nanoGPT's file"),
        (b"\1\0\2", r"train.bin has 3 bytes, which are no uint16 ids; give nanoGPT's file"),
        (
            b"\1\0" * 4 + b"\0\2",
            r"train.bin has id 512 at position 4, but the vocabulary has 263; give the tokenizer",
        ),
    ],
)
@pytest.mark.usefixtures("_blocks")
def test_files_that_are_no_ids_are_refused_and_leave_nothing(tmp_path, content, message):
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "train.bin").write_bytes(content)
    write_bin(tmp_path / "nano" / "val.bin", [[1]])
    with pytest.raises(DataError, match=message):
        import_nanogpt(tmp_path / "nano", tmp_path / "data", tokenizer=TOKENIZER)
    assert [path.name for path in tmp_path.iterdir()] == ["nano"]


def test_a_missing_file_is_told(tmp_path):
    message = r"train.bin can't be read: No such file or directory; give nanoGPT's folder or file"
    with pytest.raises(DataError, match=message):
        import_nanogpt(tmp_path, tmp_path / "data", tokenizer=TOKENIZER)
    with pytest.raises(DataError, match=r"y.bin can't be read"):
        import_nanogpt(tmp_path / "y.bin", tmp_path / "data", tokenizer=TOKENIZER)


def test_a_dataset_is_replaced_only_on_demand_and_nothing_else_is(tmp_path):
    path = write_bin(tmp_path / "x.bin", encoded(TEXTS))
    data = write(tmp_path / "data", [[1]])
    with pytest.raises(DataError, match=r"data exists already; write --overwrite"):
        import_nanogpt(path, data, tokenizer=TOKENIZER)
    assert len(TokenDataset(data)) == 1
    assert len(import_nanogpt(path, data, tokenizer=TOKENIZER, overwrite=True)) > 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"other is no dataset, so it is not replaced"):
        import_nanogpt(path, tmp_path / "other", tokenizer=TOKENIZER, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "other", "x.bin"]


def test_a_full_disk_names_the_output(tmp_path, monkeypatch):
    path = write_bin(tmp_path / "x.bin", encoded(TEXTS))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_writer.GrowingFile, "append", full)
    with pytest.raises(DataError, match=r"data can't be written: No space left on device; make ro"):
        import_nanogpt(path, tmp_path / "data", tokenizer=TOKENIZER)
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_the_space_that_a_sentencepiece_model_drops_is_dropped_once(tmp_path, monkeypatch):
    monkeypatch.setattr(text_size, "_BLOCK", 5)
    text = "the cat sat on the mat and the dog ran to the cat"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 20),
        model_prefix=str(tmp_path / "x"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = load_tokenizer(tmp_path / "x.model")
    path = write_bin(tmp_path / "x.bin", [tokenizer.encode(text)])
    made = import_nanogpt(path, tmp_path / "data", tokenizer=tokenizer)
    assert made.manifest["characters"] == len(text)
