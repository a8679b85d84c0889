"""A mixture against dealing rows out one by one."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data import Batch, DatasetWriter, TokenDataset, WindowSampler
from gptlab.data.mixture import MixedSampler
from gptlab.errors import ConfigError

SIZES = {"a": [33], "b": [9, 10, 2], "c": [70, 4], "d": [5]}
CHUNKS = {"mode": "chunk", "seq_len": 4, "short": "keep"}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> dict[str, TokenDataset]:
    """By name; a token says which dataset it is from and where it stands there."""
    folder = tmp_path_factory.mktemp("mixture")
    made = {}
    for number, (name, sizes) in enumerate(SIZES.items()):
        for suffix, windows in (("", {}), (" chunks", CHUNKS), (" pad", CHUNKS | {"short": "pad"})):
            path = folder / (name + suffix)
            made[path.name] = write(path, sizes, first=1000 * (number + 1), windows=windows)
    return made


def write(folder: Path, sizes: list[int], *, first: int, windows: object) -> TokenDataset:
    writer = DatasetWriter(folder, vocab_size=70_000)
    for size in sizes:
        writer.write(np.arange(first, first + size))
        writer.end_document()
        first += size
    writer.finish(tokenizer="", characters=0, bytes=0, windows=windows, pad_id=7)
    return TokenDataset(folder)


def sampler_of(dataset: TokenDataset, **changes: object) -> WindowSampler:
    settings = {"seq_len": 4, "batch_size": 6, "seed": 0, "shuffle": True} | changes
    return WindowSampler(dataset, **settings)


def slow_deal(weights: list[Fraction], places: int) -> list[tuple[int, int]]:
    """Which dataset each place goes to and which of its rows, dealing one place at a time.

    A dataset takes a place whenever its due has reached a whole number more; a place that it
    leaves goes on to the next one.
    """
    taken, seen = [0] * len(weights), [0] * len(weights)
    dealt = []
    for _ in range(places):
        for number, weight in enumerate(weights):
            seen[number] += 1
            if seen[number] * weight / sum(weights[number:]) >= taken[number] + 1:
                dealt.append((number, taken[number]))
                taken[number] += 1
                break
    return dealt


def slow_rows(samplers: list[WindowSampler], dealt: list[tuple[int, int]]) -> list[Batch]:
    return [samplers[number].rows([place]) for number, place in dealt]


def real(batch: Batch, row: int) -> list[list[int]]:
    """What a row says, without what fills it up."""
    weights = np.ones(batch.inputs.shape) if batch.weights is None else batch.weights
    kept = weights[row] == 1
    fields = [batch.inputs, batch.targets, batch.documents, batch.positions]
    return [field[row][kept].tolist() for field in fields if field is not None]


weights_of_some = st.lists(
    st.one_of(
        st.fractions(Fraction(1, 1000), 1000),
        st.sampled_from([Fraction("0.7"), Fraction("0.3"), Fraction(1)]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(
    weights=weights_of_some,
    kind=st.sampled_from(["", " chunks", " pad"]),
    batch_size=st.integers(5, 9),
    world_size=st.integers(1, 5),
    shuffle=st.booleans(),
)
def test_rows_equal_those_dealt_one_by_one(
    datasets, weights, kind, batch_size, world_size, shuffle
):
    flags = {"document_mask": True, "reset_positions": True}
    samplers = [
        sampler_of(datasets[name + kind], batch_size=batch_size, shuffle=shuffle, **flags)
        for name in list(SIZES)[: len(weights)]
    ]
    mixed = MixedSampler(list(zip(samplers, weights, strict=True)))
    steps = 4
    expected = slow_rows(samplers, slow_deal(weights, steps * batch_size))
    for step in range(steps):
        rows = expected[step * batch_size : (step + 1) * batch_size]
        for rank in range(world_size):
            batch = mixed.batch(step, rank=rank, world_size=world_size)
            own = rows[rank::world_size]
            assert len(batch.inputs) == len(own)
            width = 4 if kind == " pad" else max(row.inputs.shape[1] for row in own)
            assert batch.inputs.shape[1] == width
            for number, row in enumerate(own):
                assert real(batch, number) == real(row, 0)


def test_the_filling_of_a_merged_batch(datasets):
    samplers = [
        sampler_of(datasets[name], batch_size=2, shuffle=False, document_mask=True)
        for name in ("b chunks", "d chunks")
    ]
    mixed = MixedSampler([(sampler, Fraction(1)) for sampler in samplers])
    # The window of one target at the end of b's second document, and the only one of d.
    batch = mixed.rows([9, 8])
    assert batch.inputs.tolist() == [[2017, 7, 7, 7], [4000, 4001, 4002, 4003]]
    assert batch.targets.tolist() == [[2018, 7, 7, 7], [4001, 4002, 4003, 4004]]
    assert batch.weights.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert batch.weights.dtype == np.float32
    assert batch.documents.tolist() == [[0, 1, 1, 1], [0, 0, 0, 0]]
    assert batch.positions is None
    assert mixed.rows([8]).weights is None


@settings(max_examples=60, deadline=None)
@given(weights=weights_of_some, seed=st.integers(0, 3))
def test_each_dataset_goes_through_its_own_epochs(datasets, weights, seed):
    samplers = [sampler_of(datasets[name], seed=seed) for name in list(SIZES)[: len(weights)]]
    mixed = MixedSampler(list(zip(samplers, weights, strict=True)))
    firsts = mixed.rows(range(300)).inputs[:, 0]
    for number, (sampler, weight) in enumerate(zip(samplers, weights, strict=True)):
        own = firsts[firsts // 1000 == number + 1]
        assert abs(len(own) - 300 * weight / sum(weights)) < len(weights)
        alone = sampler.rows(range(max(len(own), 1))).inputs[:, 0]
        assert own.tolist() == alone[: len(own)].tolist()
        for start in range(0, len(own) - sampler.num_windows + 1, sampler.num_windows):
            epoch = own[start : start + sampler.num_windows]
            assert len(set(epoch.tolist())) == sampler.num_windows


def test_epochs_count_the_windows_of_all(datasets):
    samplers = [sampler_of(datasets[name], batch_size=5, shuffle=False) for name in ("a", "b", "d")]
    assert [sampler.num_windows for sampler in samplers] == [8, 5, 1]
    mixed = MixedSampler([(sampler, Fraction(1)) for sampler in samplers])
    assert (mixed.num_windows, mixed.batch_size) == (14, 5)
    assert mixed.epoch(14) == 5.0
    assert mixed.step_at(1) == 3
    assert mixed.step_at(5) == 14


def test_places_far_on_are_exact(datasets):
    samplers = [sampler_of(datasets[name], shuffle=False) for name in ("a", "c")]
    mixed = MixedSampler(list(zip(samplers, (Fraction("0.7"), Fraction("0.3")), strict=True)))
    step = (1 << 62) + 1
    first = step * 6
    for row, place in zip(mixed.batch(step).inputs, range(first, first + 6), strict=True):
        taken = place * 7 // 10
        if (place + 1) * 7 // 10 > taken:
            assert row[0] == 1000 + taken % 8 * 4
        else:
            assert row[0] == 3000 + (place - taken) % 18 * 4


@pytest.mark.parametrize("weight", [Fraction(0), Fraction(-1, 2)])
def test_a_weight_of_nothing_is_refused(datasets, weight):
    parts = [
        (sampler_of(datasets["a"]), Fraction(1)),
        (sampler_of(datasets["b"]), weight),
    ]
    with pytest.raises(ConfigError, match=f"the weight of .*b is {weight}; write one above 0"):
        MixedSampler(parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 5}, "windows of .*a have 4 tokens, but those of .*b have 5; prepare them"),
        ({"batch_size": 5}, "batch_size is 6 for .*a, but 5 for .*b; make them the same"),
        ({"document_mask": True}, "document_mask is False for .*a, but True for .*b"),
        ({"reset_positions": True}, "reset_positions is False for .*a, but True for .*b"),
    ],
)
def test_samplers_that_do_not_fit_are_refused(datasets, changes, message):
    parts = [
        (sampler_of(datasets["a"]), Fraction(1)),
        (sampler_of(datasets["b"], **changes), Fraction(1)),
    ]
    with pytest.raises(ConfigError, match=message):
        MixedSampler(parts)


def test_more_processes_than_rows_are_refused(datasets):
    mixed = MixedSampler([(sampler_of(datasets["a"]), Fraction(1))])
    with pytest.raises(ConfigError, match="batch_size is 6, too few for 7 processes"):
        mixed.batch(0, rank=0, world_size=7)
