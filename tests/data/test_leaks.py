"""What is found in both datasets, against sets of tuples."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import WindowConfig
from gptlab.data import DatasetWriter, TokenDataset, leaks, ngrams
from gptlab.data.leaks import Leak, find_leaks
from gptlab.data.windows import make_windows
from gptlab.errors import ConfigError, DataError

Documents = list[list[int]]
DOCUMENTS = st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=5)


def write(folder: Path, documents: Documents, **facts: object) -> TokenDataset:
    writer = DatasetWriter(folder, vocab_size=300, shard_tokens=11)
    for document in documents:
        writer.write(document)
        writer.end_document()
    writer.finish(**{"tokenizer": "a" * 64, "bytes": 1, "characters": 1} | facts)
    return TokenDataset(folder)


def runs(document: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(document[start : start + n]) for start in range(len(document) - n + 1)]


def covered(document: list[int], known: set[tuple[int, ...]], n: int) -> set[int]:
    return {
        start + place
        for start, run in enumerate(runs(document, n))
        if run in known
        for place in range(n)
    }


def check_example(leak: Leak, train: Documents, dev: Documents, n: int) -> None:
    dev_document, train_document = dev[leak.dev_document], train[leak.train_document]
    in_dev = leak.dev_start - sum(map(len, dev[: leak.dev_document]))
    in_train = leak.train_start - sum(map(len, train[: leak.train_document]))
    stretch = dev_document[in_dev : in_dev + leak.length]
    assert len(stretch) == leak.length >= n
    assert train_document[in_train : in_train + leak.length] == stretch
    # It can't be made longer, either way.
    assert not (in_dev and in_train) or dev_document[in_dev - 1] != train_document[in_train - 1]
    ends = dev_document[in_dev + leak.length :], train_document[in_train + leak.length :]
    assert not all(ends) or ends[0][0] != ends[1][0]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(ngrams, "_BLOCK", 5)
    monkeypatch.setattr(leaks, "_BLOCK", 2)


@settings(max_examples=120, deadline=None)
@given(
    train=DOCUMENTS,
    dev=DOCUMENTS,
    n=st.integers(1, 6),
    examples=st.integers(0, 3),
    bad=st.booleans(),
)
def test_equals_sets_of_tuples(tmp_path_factory, train, dev, n, examples, bad):
    folder = tmp_path_factory.mktemp("leaks")
    datasets = write(folder / "train", train), write(folder / "dev", dev)
    with pytest.MonkeyPatch.context() as patch:
        if bad:
            # With 1, runs of the same tokens in any order have the same hash.
            patch.setattr(ngrams, "_multiplier", lambda attempt: 2 * attempt + 1)
        report = find_leaks(*datasets, n=n, examples=examples)
    known = {run for document in train for run in runs(document, n)}
    wanted = [runs(document, n) for document in dev]
    places = [covered(document, known, n) for document in dev]
    assert report.n == n
    assert report.ngrams == sum(map(len, wanted))
    assert report.leaked_ngrams == sum(run in known for document in wanted for run in document)
    assert report.tokens == sum(map(len, dev))
    assert report.covered_tokens == sum(map(len, places))
    assert report.documents == len(dev)
    assert report.leaked_documents == sum(map(bool, places))
    worst = sorted((-len(found), number) for number, found in enumerate(places) if found)
    assert [(-leak.covered_tokens, leak.dev_document) for leak in report.examples] == worst[
        :examples
    ]
    for leak in report.examples:
        check_example(leak, train, dev, n)


def test_hashes_that_collide_in_dev_are_drawn_anew(tmp_path, monkeypatch):
    attempts = []

    def multiplier(attempt: int) -> int:
        attempts.append(attempt)
        return 2 * attempt + 1

    monkeypatch.setattr(ngrams, "_multiplier", multiplier)
    train, dev = write(tmp_path / "train", [[2, 1]]), write(tmp_path / "dev", [[1, 2, 1]])
    report = find_leaks(train, dev, n=2)
    assert attempts == [0, 1]
    assert (report.leaked_ngrams, report.ngrams) == (1, 2)


def test_hashes_that_collide_in_train_are_not_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(ngrams, "_multiplier", lambda _: 1)
    dev = write(tmp_path / "dev", [[1, 2]])
    assert find_leaks(write(tmp_path / "a", [[2, 1]]), dev, n=2).leaked_ngrams == 0
    assert find_leaks(write(tmp_path / "b", [[2, 1, 2]]), dev, n=2).leaked_ngrams == 1


@pytest.mark.parametrize("n", [*range(1, 18), 31, 40])
def test_a_hash_is_the_polynomial_of_its_tokens(n):
    tokens = np.arange(50) ** 2
    hashes = ngrams._hashes(tokens, n, 7)
    mix, low = int(ngrams._MIX), 2**64 - 1
    single = [(token * mix & low) ^ ((token * mix & low) >> 32) for token in tokens.tolist()]
    for start in range(51 - n):
        value = 0
        for term in single[start : start + n]:
            value = (value * 7 + term) & low
        assert int(hashes[start]) == ((value ^ (value >> 32)) * mix) & low


def test_the_shares_and_the_longest_stretch(tmp_path):
    common = list(range(100, 120))
    train = write(tmp_path / "train", [[1, 2, 3], [7, *common, 8], common[3:9]])
    dev = write(tmp_path / "dev", [[9] * 20, [4, 4, *common, 5], [*common[:13], 6]])
    report = find_leaks(train, dev)
    assert report.n == 13
    assert (report.ngrams, report.leaked_ngrams) == (8 + 11 + 2, 8 + 1)
    assert report.share == pytest.approx(9 / 21)
    assert (report.tokens, report.covered_tokens) == (57, 33)
    assert report.covered_share == pytest.approx(33 / 57)
    first, second = report.examples
    assert first == Leak(
        dev_document=1,
        train_document=1,
        dev_start=22,
        train_start=4,
        length=20,
        covered_tokens=20,
    )
    assert dev.read(first.dev_start, first.length).tolist() == common
    assert train.read(first.train_start, first.length).tolist() == common
    assert (second.dev_document, second.length) == (2, 13)


def test_a_stretch_goes_on_where_a_part_of_it_stood_elsewhere_before(tmp_path):
    common = list(range(100, 120))
    train = write(tmp_path / "train", [common[5:12], common])
    report = find_leaks(train, write(tmp_path / "dev", [common]), n=5)
    assert (report.examples[0].train_document, report.examples[0].length) == (1, 20)


@pytest.mark.parametrize(
    ("train", "dev", "documents"), [([], [], 0), ([], [[1] * 20], 1), ([[1] * 20], [[1] * 12], 1)]
)
def test_nothing_to_compare_is_no_leak(tmp_path, train, dev, documents):
    report = find_leaks(write(tmp_path / "train", train), write(tmp_path / "dev", dev))
    assert (report.leaked_ngrams, report.share, report.covered_share) == (0, 0.0, 0.0)
    assert (report.documents, report.leaked_documents, report.examples) == (documents, 0, ())


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.integers(0, 4), min_size=12, max_size=60),
    n=st.integers(1, 7),
    segment_len=st.integers(1, 6),
    stride=st.integers(1, 5),
    seed=st.integers(0, 50),
)
def test_of_windows_held_out_at_random_each_part_has_its_own(
    tmp_path_factory, ids, n, segment_len, stride, seed
):
    folder = tmp_path_factory.mktemp("windows")
    documents = [ids[:5], ids[5:30], ids[30:]]
    config = WindowConfig(mode="segment", segment_len=segment_len, stride=stride)
    datasets, tokens, found = {}, {}, {}
    for part in ("train", "dev"):
        held_out = {"share": 0.3, "seed": seed, "part": part}
        dataset = write(folder / part, documents, windows=config.model_dump(), held_out=held_out)
        try:
            windows = make_windows(dataset, seq_len=segment_len)
            starts = windows.spans(np.arange(windows.count), epoch=0).starts.tolist()
        except DataError:
            starts = []
        tokens[part] = {start + place for start in starts for place in range(segment_len + 1)}
        document = np.searchsorted(dataset.document_ends, np.arange(len(ids)), side="right")
        found[part] = {
            place: tuple(ids[place : place + n])
            for start in starts
            for place in range(start, start + segment_len + 2 - n)
            if document[place] == document[place + n - 1]
        }
        datasets[part] = dataset
    report = find_leaks(datasets["train"], datasets["dev"], n=n)
    known = set(found["train"].values())
    assert report.tokens == len(tokens["dev"])
    assert report.ngrams == len(found["dev"])
    assert report.leaked_ngrams == sum(run in known for run in found["dev"].values())
    for leak in report.examples:
        places = range(leak.dev_start, leak.dev_start + leak.length - n + 1)
        assert all(found["dev"][place] in known for place in places)


def test_datasets_of_different_tokenizers_are_refused(tmp_path):
    train, dev = write(tmp_path / "a", [[1]]), write(tmp_path / "b", [[1]], tokenizer="b" * 64)
    with pytest.raises(DataError, match=r"a and .*b were prepared with different tokenizers, so"):
        find_leaks(train, dev)


def test_runs_of_no_tokens_are_refused(tmp_path):
    train = write(tmp_path / "a", [[1]])
    with pytest.raises(ConfigError, match="n is 0; choose 1 or more"):
        find_leaks(train, train, n=0)
