"""Tokens on disk against a plain list, and against what can happen to files."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import WindowConfig
from gptlab.data import DatasetWriter, TokenDataset
from gptlab.data.shards import is_dataset
from gptlab.errors import DataError

HELD_OUT = {"share": 0.1, "seed": 0, "part": "dev"}


def write(
    folder: Path,
    ids: list[int],
    *,
    vocab_size: int = 300,
    shard_tokens: int = 7,
    document: int = 5,
    **facts: object,
) -> Path:
    writer = DatasetWriter(folder, vocab_size=vocab_size, shard_tokens=shard_tokens)
    for start in range(0, len(ids), document):
        writer.write(ids[start : start + document])
        writer.end_document()
    facts = {"tokenizer": "a" * 64, "bytes": len(ids), "characters": len(ids)} | facts
    writer.finish(**facts)
    return folder


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value != "GONE"}))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("vocab_size", "dtype", "width"),
    [(300, "uint16", 2), (1 << 16, "uint16", 2), ((1 << 16) + 1, "uint32", 4)],
)
def test_round_trip(tmp_path, vocab_size, dtype, width):
    ids = [0, vocab_size - 1, *range(40)]
    dataset = TokenDataset(write(tmp_path, ids, vocab_size=vocab_size))
    assert dataset.manifest["dtype"] == dtype
    assert dataset.manifest["vocab_size"] == vocab_size
    assert dataset.manifest["tokens"] == len(dataset) == len(ids)
    assert dataset.manifest["documents"] == dataset.num_documents == 9
    tokens = dataset.read(0, len(ids))
    assert tokens.dtype == np.int64
    assert tokens.tolist() == ids
    assert dataset.document_ends.tolist() == [*range(5, 41, 5), 42]
    sizes = [file.stat().st_size for file in tmp_path.glob("tokens-*.bin")]
    assert sum(sizes) == width * len(ids) + 64 * len(sizes)


def test_the_files_are_as_they_are_described(tmp_path):
    write(tmp_path, list(range(10)), shard_tokens=7)
    for name, kind, width, items in (
        ("tokens-00000.bin", "<u2", 2, range(7)),
        ("tokens-00001.bin", "<u2", 2, range(7, 10)),
        ("documents.bin", "<u8", 8, [5, 10]),
    ):
        content = (tmp_path / name).read_bytes()
        assert content[:8] == b"GPTLABTK"
        assert np.frombuffer(content, "<u4", 2, offset=8).tolist() == [2, width]
        assert np.frombuffer(content, "<u8", 1, offset=16).tolist() == [len(items)]
        assert content[24:56] == hashlib.sha256(content[64:]).digest()
        assert content[56:64] == bytes(8)
        assert np.frombuffer(content, kind, offset=64).tolist() == list(items)


def test_shards_are_full_but_the_last(tmp_path):
    write(tmp_path, list(range(23)), shard_tokens=7)
    sizes = [(file.stat().st_size - 64) // 2 for file in sorted(tmp_path.glob("tokens-*.bin"))]
    assert sizes == [7, 7, 7, 2]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_reads_across_borders_equal_a_list(tmp_path_factory, data):
    ids = data.draw(st.lists(st.integers(0, 299), max_size=50))
    shard_tokens = data.draw(st.integers(1, 9))
    length = data.draw(st.integers(0, len(ids)))
    starts = data.draw(st.lists(st.integers(0, len(ids) - length), max_size=5))
    folder = tmp_path_factory.mktemp("shards")
    dataset = TokenDataset(write(folder, ids, shard_tokens=shard_tokens))
    expected = [ids[start : start + length] for start in starts]
    assert [dataset.read(start, length).tolist() for start in starts] == expected
    many = dataset.read_many(np.array(starts, np.int64), length)
    assert many.dtype == np.int64
    assert many.shape == (len(starts), length)
    assert many.tolist() == expected


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (19, 2), (21, 0), (0, 21), (3, -1)])
def test_what_is_not_there_is_not_read(tmp_path, start, length):
    dataset = TokenDataset(write(tmp_path, list(range(20))))
    with pytest.raises(IndexError, match=r"are not all in .*, which has 20"):
        dataset.read(start, length)
    with pytest.raises(IndexError, match=r"are not all in .*, which has 20"):
        dataset.read_many([3, start], length)


def test_a_part_may_be_empty(tmp_path):
    dataset = TokenDataset(write(tmp_path, []))
    assert (len(dataset), dataset.num_documents) == (0, 0)
    assert dataset.read(0, 0).tolist() == []
    assert dataset.read_many([0, 0], 0).shape == (2, 0)
    assert dataset.document_ends.tolist() == []
    dataset.verify()


def test_what_a_manifest_says_is_at_hand(tmp_path):
    windows = WindowConfig(mode="segment", segment_len=8, stride=3)
    held_out = {"share": 0.1, "seed": 0, "part": "train"}
    dataset = TokenDataset(write(tmp_path, [1, 2], windows=windows.model_dump(), held_out=held_out))
    assert dataset.windows == windows
    assert dataset.held_out == held_out
    assert dataset.dev is dataset.tokenizer is None
    write(tmp_path / "dev", [3])
    (tmp_path / "tokenizer").mkdir()
    assert dataset.dev == tmp_path / "dev"
    assert dataset.tokenizer == tmp_path / "tokenizer"
    plain = TokenDataset(tmp_path / "dev")
    assert plain.windows == WindowConfig()
    assert plain.held_out is None


def test_the_fingerprint_is_of_tokens_documents_and_windows(tmp_path):
    ids = list(range(20))
    first = TokenDataset(write(tmp_path / "0", ids)).fingerprint()
    variants = [
        write(tmp_path / "1", ids[::-1]),
        write(tmp_path / "2", ids, document=4),
        write(tmp_path / "3", ids, windows={"mode": "chunk"}),
        write(tmp_path / "4", ids, windows={"mode": "segment"}),
        write(tmp_path / "6", ids, windows={"mode": "segment"}, held_out=HELD_OUT),
    ]
    assert len({first, *(TokenDataset(folder).fingerprint() for folder in variants)}) == 6
    same = write(tmp_path / "5", ids, windows={"mode": "stream"}, source="another")
    assert TokenDataset(same).fingerprint() == first


def test_a_part_may_share_the_files_of_another(tmp_path):
    write(tmp_path, list(range(20)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for file in [*manifest["shards"], manifest["document_ends"]]:
        file["file"] = f"../{file['file']}"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "manifest.json").write_text(json.dumps(manifest))
    dataset = TokenDataset(tmp_path / "dev")
    dataset.verify()
    assert dataset.read(0, 20).tolist() == list(range(20))
    known = TokenDataset(tmp_path).verify()
    flip(tmp_path / "tokens-00001.bin", 70)
    assert dataset.verify(known=known) == known
    with pytest.raises(DataError, match=r"00001\.bin is missing or damaged: its checksum"):
        dataset.verify(known=known - {(tmp_path / "tokens-00001.bin").resolve()})


def test_is_dataset(tmp_path):
    assert is_dataset(write(tmp_path / "data", [1, 2]))
    assert not is_dataset(tmp_path)
    assert not is_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "size"), [("tokens-00001.bin", 78), ("documents.bin", 96)])
def test_a_short_long_or_missing_file_is_named(tmp_path, name, size):
    write(tmp_path, list(range(20)))
    file = tmp_path / name
    content = file.read_bytes()
    for changed in (content[:-1], content + b"\0", content[:10], b""):
        file.write_bytes(changed)
        message = rf"{name} is missing or damaged: {len(changed)} bytes, not {size}; prepare the"
        with pytest.raises(DataError, match=message):
            TokenDataset(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=rf"{name} is missing .* prepare the data again"):
        TokenDataset(tmp_path)


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00002.bin", "documents.bin"])
def test_any_flipped_byte_is_found_and_its_file_named(tmp_path, name):
    write(tmp_path, list(range(20)))
    for place in range((tmp_path / name).stat().st_size):
        flip(tmp_path / name, place)
        with pytest.raises(DataError, match=rf"{name} is missing or damaged: .*; prepare the data"):
            TokenDataset(tmp_path).verify()
        flip(tmp_path / name, place)
    TokenDataset(tmp_path).verify()


def test_a_shard_of_another_dataset_is_refused(tmp_path):
    write(tmp_path / "a", list(range(20)))
    write(tmp_path / "b", list(range(1, 21)))
    (tmp_path / "b" / "tokens-00001.bin").replace(tmp_path / "a" / "tokens-00001.bin")
    with pytest.raises(DataError, match=r"00001.bin .* its header does not fit the manifest"):
        TokenDataset(tmp_path / "a")


def test_documents_that_end_elsewhere_than_the_tokens_are_refused(tmp_path):
    write(tmp_path / "a", list(range(20)))
    write(tmp_path / "b", list(range(19)))
    ends = TokenDataset(tmp_path / "b").manifest["document_ends"]
    (tmp_path / "b" / "documents.bin").replace(tmp_path / "a" / "documents.bin")
    edit_manifest(tmp_path / "a", document_ends=ends)
    with pytest.raises(DataError, match=r"documents.bin .* its last document ends elsewhere"):
        TokenDataset(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b'{"format": "x"}'])
def test_a_foreign_or_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest.json is") as error:
        TokenDataset(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        *["version", "dtype", "tokens", "documents", "vocab_size", "tokenizer"],
        *["bytes", "characters", "shards", "document_ends"],
    ],
)
def test_a_manifest_without_a_part_is_damaged(tmp_path, key):
    edit_manifest(write(tmp_path, [1, 2, 3]), **{key: "GONE"})
    with pytest.raises(DataError, match=r"manifest.json is damaged; prepare the data again"):
        TokenDataset(tmp_path, tokenizer="a" * 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float8"},
        {"dtype": ["uint16"]},
        {"tokens": 4},
        {"documents": 7},
        {"bytes": "3"},
        {"characters": -1},
        {"shards": [{"file": "tokens-00000.bin"}]},
        {"shards": [{"file": "tokens-00000.bin", "tokens": 3, "sha256": "abc"}]},
        {"shards": [{"file": 1, "tokens": 3, "sha256": "ab" * 32}]},
        {"shards": {"a": 1}},
        {"document_ends": None},
        {"windows": {"mode": "spiral"}},
        {"windows": 3},
        {"pad_id": "0"},
        {"pad_id": True},
        {"pad_id": -1},
        {"pad_id": 300},
        {"held_out": 0.1},
        {"held_out": HELD_OUT},
        {"held_out": HELD_OUT, "windows": {"mode": "chunk"}},
        *[
            {"windows": {"mode": "segment"}, "held_out": held_out}
            for held_out in (
                [],
                {},
                {"share": 0.1, "seed": 0},
                HELD_OUT | {"more": 1},
                *[HELD_OUT | {"share": share} for share in (1, -0.1, "0.1", None, True, math.nan)],
                *[HELD_OUT | {"seed": seed} for seed in (-1, 0.5, "0", None, True)],
                *[HELD_OUT | {"part": part} for part in ("test", None, 1, ["dev"])],
            )
        ],
    ],
)
def test_a_manifest_with_a_wrong_part_is_damaged(tmp_path, changes):
    edit_manifest(write(tmp_path, [1, 2, 3]), **changes)
    with pytest.raises(DataError, match=r"manifest.json is damaged; prepare the data again"):
        TokenDataset(tmp_path)


@pytest.mark.parametrize("version", [1, 99])
def test_another_version_is_refused(tmp_path, version):
    edit_manifest(write(tmp_path, [1, 2, 3]), version=version)
    message = f"has version {version}, but this gptlab reads version 2; prepare the data again"
    with pytest.raises(DataError, match=message):
        TokenDataset(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match="can't be read: No such file or directory; prepare"):
        TokenDataset(tmp_path)


def test_another_tokenizer_is_refused_by_name(tmp_path):
    write(tmp_path, [1, 2, 3])
    TokenDataset(tmp_path, tokenizer="a" * 64)
    with pytest.raises(DataError, match=r"another tokenizer \(aaaaaaaaaaaa, not bbbbbbbbbbbb\)"):
        TokenDataset(tmp_path, tokenizer="b" * 64)
