"""Datasets as the package datasets saves them are read in their own order."""

import json
import sys

import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars

from gptlab.corpus import open_corpus
from gptlab.errors import DataError

TEXTS = [f"text {number} é\n" for number in range(50)]


@pytest.fixture(autouse=True)
def _quiet():
    disable_progress_bars()


def save(folder, texts=TEXTS, shards=3):
    Dataset.from_dict({"id": range(len(texts)), "text": texts}).save_to_disk(
        folder, num_shards=shards
    )
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("check", [True, False])
def test_a_saved_dataset_is_its_rows(tmp_path, shards, check):
    folder = save(tmp_path / "saved", shards=shards)
    (folder / "cache-1.arrow").write_bytes(
        (folder / f"data-00000-of-0000{shards}.arrow").read_bytes()
    )
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("not of the dataset")
    corpus = open_corpus(folder, check=check)
    assert len(corpus.files) == shards
    assert list(corpus.documents()) == TEXTS
    assert corpus.skipped == 0
    assert corpus.name == "saved"
    stored = [document.stored for document in corpus.read()]
    assert max(stored) <= max(file.stat().st_size for file in corpus.files)


def test_files_stand_in_the_datasets_order(tmp_path):
    folder = save(tmp_path / "saved")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    names = [entry["filename"] for entry in state["_data_files"]]
    assert [file.name for file in open_corpus(folder).files] == names


def test_a_dataset_within_a_folder_of_texts(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    save(tmp_path / "b" / "saved", TEXTS[:2], shards=1)
    (tmp_path / "c.txt").write_text("last")
    assert list(open_corpus(tmp_path).documents()) == ["first", *TEXTS[:2], "last"]
    assert list(open_corpus(tmp_path, include="*.txt").documents()) == ["first", "last"]
    assert list(open_corpus(f"{tmp_path}/b/*").documents()) == TEXTS[:2]


def test_rows_are_split_and_have_a_field(tmp_path):
    corpus = open_corpus(save(tmp_path / "saved"))
    parts = [list(part.documents()) for part in corpus.split(0.3)]
    assert sorted(parts[0] + parts[1]) == sorted(TEXTS)
    assert all(parts)
    with pytest.raises(DataError, match=r"has no field 'body', only \['id', 'text'\]; name"):
        list(open_corpus(corpus.root, field="body").documents())


def test_several_datasets_in_a_folder_are_refused_by_their_names(tmp_path):
    one = Dataset.from_dict({"text": TEXTS})
    DatasetDict(train=one, test=one).save_to_disk(tmp_path / "saved")
    expected = f"saved is a dataset with the splits train, test; name one of them, as in {tmp_path}"
    for path in (tmp_path / "saved", tmp_path):
        with pytest.raises(DataError, match=f"{expected}/saved/train"):
            open_corpus(path)
    assert list(open_corpus(tmp_path / "saved" / "test").documents()) == TEXTS


@pytest.mark.parametrize("state", ["{", "[]", "{}", '{"_data_files": [{"name": 1}]}'])
def test_a_dataset_whose_state_is_broken_is_refused(tmp_path, state):
    folder = save(tmp_path / "saved")
    (folder / "state.json").write_text(state)
    with pytest.raises(DataError, match="does not list the '_data_files' of a dataset; save"):
        open_corpus(folder)


def test_a_file_that_is_missing_is_told(tmp_path):
    folder = save(tmp_path / "saved")
    (folder / "data-00001-of-00003.arrow").unlink()
    found = [getattr(item, "reason", "") for item in open_corpus(folder, check=False).read()]
    assert found.count("gone") == 1
    assert found.count("") == 33
    corpus = open_corpus(folder)
    assert (len(corpus.files), corpus.skipped) == (2, 1)


def test_the_package_that_is_missing_is_named(tmp_path, monkeypatch):
    folder = save(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(
        DataError, match=r"needs the package pyarrow; run pip install 'gptlab\[hf\]'"
    ):
        open_corpus(folder)
