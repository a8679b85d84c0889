"""A writer that is stopped anywhere and taken up again writes the same bytes."""

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data import DatasetWriter, TokenDataset, shard_writer
from gptlab.errors import DataError

FACTS = {"tokenizer": "a" * 64, "bytes": 1, "characters": 1}

Action = tuple[str, int]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["end", "end", "back"]), st.just(0)),
    ),
    max_size=25,
)


def act(writer: DatasetWriter, action: Action, seed: int) -> None:
    kind, count = action
    if kind == "write":
        writer.write(np.random.default_rng(seed).integers(0, 300, count).astype(np.uint16))
    elif kind == "end":
        writer.end_document()
    else:
        writer.roll_back()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch):
    monkeypatch.setattr(shard_writer, "_BUFFERED_TOKENS", 5)


@settings(max_examples=300, deadline=None)
@given(
    actions=ACTIONS,
    shard_tokens=st.integers(1, 9),
    stops=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 8)), max_size=3),
    shared=st.booleans(),
)
def test_what_was_killed_and_resumed_is_the_same(
    tmp_path_factory, actions, shard_tokens, stops, shared
):
    folder = tmp_path_factory.mktemp("datasets")
    straight = DatasetWriter(folder / "straight", vocab_size=300, shard_tokens=shard_tokens)
    documents: list[list[int]] = []
    document: list[int] = []
    for number, action in enumerate(actions):
        act(straight, action, number)
        if action[0] == "write":
            document += np.random.default_rng(number).integers(0, 300, action[1]).tolist()
        else:
            documents += [document] if action[0] == "end" else []
            document = []
        assert straight.tokens == sum(map(len, [*documents, document]))
        assert straight.documents == len(documents)
    straight.finish(**FACTS)

    writer = DatasetWriter(folder / "resumed", vocab_size=300, shard_tokens=shard_tokens)
    done = 0
    for place, further in sorted(stops):
        for number in range(done, max(done, min(place, len(actions)))):
            act(writer, actions[number], number)
            done = number + 1
        state = writer.state()
        for number in range(done, min(done + further, len(actions))):
            act(writer, actions[number], number)
            if shared:
                writer.state()
        writer = DatasetWriter.resume(folder / "resumed", state)
    for number in range(done, len(actions)):
        act(writer, actions[number], number)
    writer.finish(**FACTS)

    assert files(folder / "resumed") == files(folder / "straight")
    dataset = TokenDataset(folder / "straight")
    dataset.verify()
    documents += [document] if document else []
    assert dataset.read(0, len(dataset)).tolist() == [*chain(*documents)]
    assert dataset.document_ends.tolist() == np.cumsum(list(map(len, documents))).tolist()
    shutil.rmtree(folder)


def test_what_finish_left_can_be_taken_up_again(tmp_path):
    writer = DatasetWriter(tmp_path, vocab_size=300, shard_tokens=4)
    writer.write(range(10))
    state = writer.state()
    writer.finish(**FACTS)
    finished = files(tmp_path)
    assert sorted(finished) == ["documents.bin", "manifest.json"] + [
        f"tokens-0000{number}.bin" for number in range(3)
    ]
    again = DatasetWriter.resume(tmp_path, state)
    with pytest.raises(DataError, match=r"manifest.json can't be read"):
        TokenDataset(tmp_path)
    again.finish(**FACTS)
    assert files(tmp_path) == finished


def test_a_state_is_plain_json_and_files_are_cut_back_to_it(tmp_path):
    writer = DatasetWriter(tmp_path, vocab_size=300, shard_tokens=4)
    writer.write([1, 2, 3])
    writer.end_document()
    writer.write([4, 5])
    state = json.loads(json.dumps(writer.state()))
    writer.write(range(10))
    writer.end_document()
    writer.state()
    again = DatasetWriter.resume(tmp_path, state)
    assert (again.tokens, again.documents) == (5, 1)
    sizes = {name: len(content) - 64 for name, content in files(tmp_path).items()}
    assert sizes == {"documents.bin": 8, "tokens-00000.bin": 8, "tokens-00001.bin": 2}
    again.roll_back()
    assert (again.tokens, again.documents) == (3, 1)


def test_a_state_outlives_that_its_document_was_taken_back(tmp_path):
    writer = DatasetWriter(tmp_path, vocab_size=300, shard_tokens=4)
    writer.write(range(11))
    state = writer.state()
    writer.roll_back()
    writer.write([7])
    writer.state()
    again = DatasetWriter.resume(tmp_path, state)
    again.roll_back()
    again.write([7])
    again.finish(**FACTS)
    dataset = TokenDataset(tmp_path)
    dataset.verify()
    assert dataset.read(0, len(dataset)).tolist() == [7]


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00002.bin", "documents.bin"])
@pytest.mark.parametrize("left", [None, 5, -1])
def test_files_shorter_than_the_state_are_refused_by_name(tmp_path, name, left):
    writer = DatasetWriter(tmp_path, vocab_size=300, shard_tokens=4)
    for _ in range(5):
        writer.write([1, 2])
        writer.end_document()
    state = writer.state()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink() if left is None else (tmp_path / name).write_bytes(content[:left])
    message = rf"{name} is missing or shorter than it was"
    with pytest.raises(DataError, match=message):
        DatasetWriter.resume(tmp_path, state)


def test_a_full_shard_with_a_damaged_header_is_refused_by_name(tmp_path):
    writer = DatasetWriter(tmp_path, vocab_size=300, shard_tokens=4)
    writer.write(range(9))
    state = writer.state()
    path = tmp_path / "tokens-00001.bin"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"tokens-00001.bin is damaged, so this can't go on; prep"):
        DatasetWriter.resume(tmp_path, state)


def test_a_new_writer_clears_what_another_left(tmp_path):
    for ids in (range(30), range(3)):
        writer = DatasetWriter(tmp_path, vocab_size=300, shard_tokens=4)
        writer.write(ids)
        writer.finish(**FACTS)
    assert sorted(files(tmp_path)) == ["documents.bin", "manifest.json", "tokens-00000.bin"]
    assert len(TokenDataset(tmp_path)) == 3


@pytest.mark.parametrize("ids", [[-1], [300], np.array([70000]), np.array([2**16], np.uint32)])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path, ids):
    writer = DatasetWriter(tmp_path, vocab_size=300)
    writer.write([1])
    writer.write(ids)
    message = rf"token {ids[0]} is outside the vocabulary of 300; give the tokenizer that made it"
    with pytest.raises(DataError, match=message):
        writer.finish(**FACTS)
    assert not (tmp_path / "manifest.json").exists()


def test_empty_documents_count(tmp_path):
    writer = DatasetWriter(tmp_path, vocab_size=300)
    for ids in ([], [5], []):
        writer.write(ids)
        writer.end_document()
    writer.roll_back()
    writer.finish(**FACTS)
    dataset = TokenDataset(tmp_path)
    assert dataset.num_documents == 3
    assert dataset.document_ends.tolist() == [0, 1, 1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_is_told_by_the_name_that_is_known(tmp_path):
    folder = tmp_path / ".partial"
    writer = DatasetWriter(folder, vocab_size=300, name=tmp_path / "prepared")
    (folder / "tokens-00000.bin").symlink_to("/dev/full")
    message = r"prepared can't be written: No space left on device; make room on its disk"
    with pytest.raises(DataError, match=message):
        writer.write(range(5))


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"file/data can't be written: Not a directory; choose anot"
    ):
        DatasetWriter(tmp_path / "file" / "data", vocab_size=300)
