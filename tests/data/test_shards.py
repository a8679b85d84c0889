"""Tokens on disk against a plain list."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.shards import ShardWriter, TokenDataset, is_dataset
from gptlab.errors import DataError


def write(folder: Path, ids: list[int], *, vocab_size: int = 300, shard_tokens: int = 7) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, vocab_size=vocab_size, shard_tokens=shard_tokens)
    for start in range(0, len(ids), 5):
        writer.write(ids[start : start + 5])
    writer.finish(tokenizer="a" * 64, bytes=len(ids), characters=len(ids))
    return folder


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value != "GONE"}))


@pytest.mark.parametrize(
    ("vocab_size", "dtype", "width"),
    [(300, "uint16", 2), (1 << 16, "uint16", 2), ((1 << 16) + 1, "uint32", 4)],
)
def test_round_trip(tmp_path, vocab_size, dtype, width):
    ids = [0, vocab_size - 1, *range(40)]
    dataset = TokenDataset(write(tmp_path, ids, vocab_size=vocab_size))
    assert dataset.manifest["dtype"] == dtype
    assert len(dataset) == len(ids)
    tokens = dataset.read(0, len(ids))
    assert tokens.dtype == np.int64
    assert tokens.tolist() == ids
    assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) == width * len(ids)


def test_shards_are_full_but_the_last(tmp_path):
    write(tmp_path, list(range(23)), shard_tokens=7)
    sizes = [file.stat().st_size // 2 for file in sorted(tmp_path.glob("tokens-*.bin"))]
    assert sizes == [7, 7, 7, 2]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_reads_across_borders_equal_a_list(tmp_path_factory, data):
    ids = data.draw(st.lists(st.integers(0, 299), min_size=1, max_size=50))
    shard_tokens = data.draw(st.integers(1, 9))
    start = data.draw(st.integers(0, len(ids) - 1))
    length = data.draw(st.integers(0, len(ids) - start))
    folder = tmp_path_factory.mktemp("shards")
    dataset = TokenDataset(write(folder, ids, shard_tokens=shard_tokens))
    assert dataset.read(start, length).tolist() == ids[start : start + length]


def test_is_dataset(tmp_path):
    assert is_dataset(write(tmp_path / "data", [1, 2]))
    assert not is_dataset(tmp_path)
    assert not is_dataset(tmp_path / "nowhere")


def test_a_damaged_or_missing_shard_is_named(tmp_path):
    write(tmp_path, list(range(20)))
    shard = tmp_path / "tokens-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"tokens-00001.bin is missing or damaged: 13 bytes, not"):
        TokenDataset(tmp_path)
    shard.unlink()
    with pytest.raises(DataError, match=r"tokens-00001.bin is missing .* prepare the data again"):
        TokenDataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b'{"format": "x"}'])
def test_a_foreign_or_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest.json is") as error:
        TokenDataset(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["version", "dtype", "tokenizer", "shards"])
def test_a_manifest_without_a_part_is_damaged(tmp_path, key):
    edit_manifest(write(tmp_path, [1, 2, 3]), **{key: "GONE"})
    with pytest.raises(DataError, match=r"manifest.json is damaged; prepare the data again"):
        TokenDataset(tmp_path, tokenizer="a" * 64)


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float8"}, {"shards": [{"file": "tokens-00000.bin"}]}, {"shards": {"a": 1}}],
)
def test_a_manifest_with_a_wrong_part_is_damaged(tmp_path, changes):
    edit_manifest(write(tmp_path, [1, 2, 3]), **changes)
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        TokenDataset(tmp_path)


def test_a_later_version_is_refused(tmp_path):
    edit_manifest(write(tmp_path, [1, 2, 3]), version=99)
    with pytest.raises(DataError, match="has version 99, but this gptlab reads version 1"):
        TokenDataset(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match="can't be read: No such file or directory; prepare"):
        TokenDataset(tmp_path)


def test_another_tokenizer_is_refused_by_name(tmp_path):
    write(tmp_path, [1, 2, 3])
    TokenDataset(tmp_path, tokenizer="a" * 64)
    with pytest.raises(DataError, match=r"another tokenizer \(aaaaaaaaaaaa, not bbbbbbbbbbbb\)"):
        TokenDataset(tmp_path, tokenizer="b" * 64)
