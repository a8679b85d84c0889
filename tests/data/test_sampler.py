"""Batches are a function of seed, step and rank, and an epoch reads each window once."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.data import Batch, DatasetWriter, TokenDataset, WindowSampler, sequential_batches
from gptlab.data.windows import make_windows
from gptlab.errors import ConfigError, DataError

PAD = 69_999
Make = Callable[..., TokenDataset]

WINDOWS = [
    {},
    {"mode": "chunk", "seq_len": 4, "short": "drop"},
    {"mode": "chunk", "seq_len": 4, "short": "keep"},
    {"mode": "chunk", "seq_len": 4, "short": "pad"},
    {"mode": "segment", "segment_len": 4, "stride": 3},
]


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Make:
    """Datasets whose tokens are 0, 1, 2, ..., so that a token says where it stands."""
    made: dict[str, TokenDataset] = {}

    def dataset(*sizes: int, **facts: object) -> TokenDataset:
        name = repr((sizes, facts))
        if name not in made:
            made[name] = TokenDataset(write(tmp_path_factory.mktemp("data"), sizes, facts))
        return made[name]

    return dataset


def write(folder: Path, sizes: tuple[int, ...], facts: dict[str, object]) -> Path:
    writer = DatasetWriter(folder, vocab_size=70_000, shard_tokens=13)
    start = 0
    for size in sizes:
        writer.write(np.arange(start, start + size))
        writer.end_document()
        start += size
    writer.finish(tokenizer="", characters=0, bytes=0, pad_id=PAD, **facts)
    return folder


def sampler_of(dataset: TokenDataset, **changes: object) -> WindowSampler:
    settings = {"seq_len": 4, "batch_size": 3, "seed": 0, "shuffle": True} | changes
    return WindowSampler(dataset, **settings)


def rows_of(batch: Batch) -> list[list[tuple[object, ...]]]:
    """What the rows say, without what fills them up."""
    weights = np.ones(batch.inputs.shape) if batch.weights is None else batch.weights
    fields = [batch.inputs, batch.targets, batch.documents, batch.positions]
    rows = []
    for row, width in enumerate(weights.sum(axis=1).astype(int)):
        known = [field[row, :width].tolist() for field in fields if field is not None]
        rows.append(list(zip(*known, strict=True)))
    return rows


def slow_batch(dataset: TokenDataset, spans: list[tuple[int, int]], width: int) -> Batch:
    """The batch of windows (start, length), a token at a time, where token i is i."""
    shape = (len(spans), width)
    batch = Batch(
        np.full(shape, PAD), np.full(shape, PAD), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    )
    ends = dataset.document_ends.tolist()
    for row, (start, length) in enumerate(spans):
        documents = [bisect_right(ends, place) for place in range(start, start + length)]
        seen = sorted(set(documents))
        for column in range(width):
            batch.documents[row, column] = len(seen)
            if column < length:
                batch.inputs[row, column] = start + column
                batch.targets[row, column] = start + column + 1
                batch.weights[row, column] = 1
                batch.documents[row, column] = seen.index(documents[column])
                batch.positions[row, column] = column - documents.index(documents[column])
    return batch


def assert_equal(batch: Batch, expected: Batch) -> None:
    assert batch.inputs.dtype == batch.targets.dtype == np.int64
    assert batch.documents.dtype == batch.positions.dtype == np.int64
    if expected.weights.all():
        assert batch.weights is None
        batch = batch._replace(weights=np.ones(batch.inputs.shape, dtype=np.float32))
    assert batch.weights.dtype == np.float32
    for field, other in zip(batch, expected, strict=True):
        np.testing.assert_array_equal(field, other)


sizes = given(
    length=st.integers(2, 60),
    seq_len=st.integers(1, 7),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@sizes
def test_an_epoch_reads_every_window_once(make, length, seq_len, batch_size, seed, shuffle):
    if length <= seq_len:
        return
    sampler = sampler_of(
        make(length), seq_len=seq_len, batch_size=batch_size, seed=seed, shuffle=shuffle
    )
    whole = (length - 1) // seq_len
    windows = max(1, (length - seq_len) // seq_len) if shuffle else whole
    assert sampler.num_windows == windows
    steps = -(-3 * windows // batch_size)
    starts = [int(row[0]) for step in range(steps) for row in sampler.batch(step).inputs]
    for epoch in range(3):
        read = starts[epoch * windows : (epoch + 1) * windows]
        expected = [min(read) + window * seq_len for window in range(windows)]
        assert sorted(read) == expected
        assert expected[-1] + seq_len < length
        assert shuffle or read == [window * seq_len for window in range(windows)]


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.integers(0, 14), min_size=1, max_size=9),
    windows=st.sampled_from(WINDOWS[1:]),
    share=st.sampled_from([None, 0.2, 0.5]),
    part=st.sampled_from(["train", "dev"]),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_an_epoch_reads_every_window_of_the_preparation_once(
    make, documents, windows, share, part, batch_size, seed, shuffle
):
    facts = {"windows": windows}
    if share is not None and windows["mode"] == "segment":
        facts["held_out"] = {"share": share, "seed": seed, "part": part}
    dataset = make(*documents, **facts)
    try:
        found = make_windows(dataset, seq_len=6)
    except DataError:
        return
    sampler = sampler_of(dataset, seq_len=6, batch_size=batch_size, seed=seed, shuffle=shuffle)
    count = sampler.num_windows
    assert count == found.count
    starts = [
        int(row[0])
        for step in range(-(-2 * count // batch_size))
        for row in sampler.batch(step).inputs
    ]
    expected = found.spans(np.arange(count), epoch=0).starts.tolist()
    for epoch in range(2):
        read = starts[epoch * count : (epoch + 1) * count]
        assert sorted(read) == expected
        assert shuffle or read == expected


@settings(max_examples=100, deadline=None)
@sizes
def test_targets_are_inputs_shifted_by_one(make, length, seq_len, batch_size, seed, shuffle):
    if length <= seq_len:
        return
    sampler = sampler_of(
        make(length), seq_len=seq_len, batch_size=batch_size, seed=seed, shuffle=shuffle
    )
    inputs, targets, weights, documents, positions = sampler.batch(2)
    assert inputs.shape == targets.shape == (batch_size, seq_len)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()
    assert (np.diff(inputs, axis=1) == 1).all()
    assert weights is documents is positions is None


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.integers(0, 14), min_size=1, max_size=9),
    windows=st.sampled_from(WINDOWS),
    batch_size=st.integers(1, 9),
    step=st.integers(0, 5),
    shuffle=st.booleans(),
)
def test_rows_equal_those_made_a_token_at_a_time(
    make, documents, windows, batch_size, step, shuffle
):
    try:
        sampler = sampler_of(
            make(*documents, windows=windows),
            batch_size=batch_size,
            shuffle=shuffle,
            document_mask=True,
            reset_positions=True,
        )
    except DataError:
        return
    first = step * batch_size
    spans = sampler.spans(range(first, first + batch_size))
    listed = list(zip(spans.starts.tolist(), spans.lengths.tolist(), strict=True))
    width = 4 if windows.get("short") == "pad" else max(length for _, length in listed)
    assert_equal(sampler.batch(step), slow_batch(sampler.dataset, listed, width))


def test_documents_and_positions_of_a_row(make):
    dataset = make(3, 1, 6)
    settings = {"seq_len": 8, "batch_size": 1, "shuffle": False}
    batch = sampler_of(dataset, document_mask=True, reset_positions=True, **settings).batch(0)
    assert batch.documents.tolist() == [[0, 0, 0, 1, 2, 2, 2, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3]]
    settings["seq_len"] = 2
    batch = sampler_of(dataset, document_mask=True, **settings).batch(1)
    assert batch.documents.tolist() == [[0, 1]]
    assert batch.positions is None
    batch = sampler_of(dataset, reset_positions=True, **settings).batch(3)
    assert batch.positions.tolist() == [[0, 1]]
    assert batch.documents is None


@pytest.mark.parametrize(("short", "width"), [("keep", 3), ("pad", 4)])
def test_short_windows_are_filled_up(make, short, width):
    dataset = make(3, 4, windows={"mode": "chunk", "seq_len": 4, "short": short})
    batch = sampler_of(
        dataset, batch_size=2, shuffle=False, document_mask=True, reset_positions=True
    ).batch(0)
    filling = [PAD] * (width - 3)
    assert batch.inputs.tolist() == [[0, 1, PAD, *filling], [3, 4, 5, *filling]]
    assert batch.targets.tolist() == [[1, 2, PAD, *filling], [4, 5, 6, *filling]]
    assert batch.weights.tolist() == [
        [1, 1, 0, *[0] * len(filling)],
        [1, 1, 1, *[0] * len(filling)],
    ]
    assert batch.documents.tolist() == [
        [0, 0, 1, *[1] * len(filling)],
        [0, 0, 0, *[1] * len(filling)],
    ]
    assert batch.positions.tolist() == [
        [0, 1, 0, *[0] * len(filling)],
        [0, 1, 2, *[0] * len(filling)],
    ]


def test_without_a_padding_token_the_filling_is_0(tmp_path):
    writer = DatasetWriter(tmp_path, vocab_size=300)
    writer.write([7, 8])
    windows = {"mode": "chunk", "seq_len": 4, "short": "pad"}
    writer.finish(tokenizer="", characters=0, bytes=0, pad_id=None, windows=windows)
    batch = sampler_of(TokenDataset(tmp_path), batch_size=1).batch(0)
    assert batch.inputs.tolist() == [[7, 0, 0, 0]]
    assert batch.targets.tolist() == [[8, 0, 0, 0]]


@pytest.mark.parametrize("windows", WINDOWS)
def test_a_batch_depends_on_seed_and_step_alone(make, windows):
    dataset = make(20, 9, 21, windows=windows)
    straight = [sampler_of(dataset, seed=7).batch(step).inputs for step in range(20)]
    jumping = sampler_of(dataset, seed=7)
    for step in (19, 3, 11, 0, 3, 18):
        np.testing.assert_array_equal(jumping.batch(step).inputs, straight[step])
    np.random.seed(1)
    np.testing.assert_array_equal(sampler_of(dataset, seed=7).batch(5).inputs, straight[5])


@settings(max_examples=150, deadline=None)
@given(
    windows=st.sampled_from(WINDOWS),
    batch_size=st.integers(5, 16),
    world_size=st.integers(1, 5),
    step=st.integers(0, 30),
    shuffle=st.booleans(),
)
def test_ranks_share_the_rows_of_the_step(make, windows, batch_size, world_size, step, shuffle):
    sampler = sampler_of(
        make(20, 3, 21, windows=windows),
        batch_size=batch_size,
        shuffle=shuffle,
        document_mask=True,
        reset_positions=True,
    )
    whole = rows_of(sampler.batch(step))
    for rank in range(world_size):
        part = rows_of(sampler.batch(step, rank=rank, world_size=world_size))
        assert part == whole[rank::world_size]


def test_more_processes_than_rows_are_refused(make):
    sampler = sampler_of(make(50), batch_size=3)
    assert sampler.batch(0, rank=2, world_size=3).inputs.shape == (1, 4)
    message = "batch_size is 3, too few for 4 processes; write --batch_size 4 or more"
    with pytest.raises(ConfigError, match=message):
        sampler.batch(0, rank=0, world_size=4)


def test_seeds_and_epochs_have_orders_of_their_own(make):
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = sampler_of(make(105), batch_size=25, seed=seed)
        return tuple(sampler.batch(epoch).inputs[:, 0].tolist())

    orders = Counter(order(seed, epoch) for seed in range(4) for epoch in range(4))
    assert len(orders) == 16


def test_borders_move_from_epoch_to_epoch(make):
    sampler = sampler_of(make(105), batch_size=25)
    offsets = [int(sampler.batch(epoch).inputs.min()) for epoch in range(40)]
    assert sorted(set(offsets)) == [0, 1, 2, 3, 4]
    in_order = sampler_of(make(105), batch_size=26, shuffle=False)
    assert {int(in_order.batch(epoch).inputs.min()) for epoch in range(10)} == {0}


def test_epoch_counts_windows(make):
    sampler = sampler_of(make(41), batch_size=4, shuffle=False)
    assert sampler.num_windows == 10
    assert [sampler.epoch(step) for step in (0, 5, 10)] == [0.0, 2.0, 4.0]
    assert [sampler.step_at(epoch) for epoch in (1, 2, 0.4, 0.41)] == [3, 5, 1, 2]


@settings(max_examples=300, deadline=None)
@example(length=101, batch_size=1, epoch=0.28)
@example(length=60, batch_size=1, epoch=1e17)
@given(
    length=st.integers(5, 60),
    batch_size=st.integers(1, 20),
    epoch=st.one_of(st.floats(0.001, 1e17), st.integers(1, 2000).map(lambda tenths: tenths / 10)),
)
def test_step_at_is_the_first_step_behind_an_epoch(make, length, batch_size, epoch):
    sampler = sampler_of(make(length), batch_size=batch_size)
    step = sampler.step_at(epoch)
    assert sampler.epoch(step) >= epoch
    assert sampler.epoch(step - 1) < epoch
    assert sampler.step_at(0) == 0


def test_steps_beyond_64_bits_of_windows_are_exact(make):
    sampler = sampler_of(make(42), batch_size=3, shuffle=False)
    step = (1 << 62) + 1
    expected = [place % 10 * 4 for place in range(step * 3, step * 3 + 3)]
    assert sampler.batch(step).inputs[:, 0].tolist() == expected
    shuffled = sampler_of(make(42), batch_size=9)
    assert shuffled.num_windows == 9
    for step in (1 << 62, (1 << 62) + 1):
        starts = np.sort(shuffled.batch(step).inputs[:, 0])
        assert (np.diff(starts) == 4).all()


def test_a_dataset_without_a_window_is_refused(make):
    with pytest.raises(DataError, match="has 4 tokens, but one window takes 5"):
        sampler_of(make(4))
    with pytest.raises(ConfigError, match="have 9 tokens, but seq_len is 4"):
        sampler_of(make(20, windows={"mode": "chunk", "seq_len": 9}))


def test_one_window_is_enough(make):
    batch = sampler_of(make(5), batch_size=2).batch(0)
    assert batch.inputs.tolist() == [[0, 1, 2, 3]] * 2
    assert batch.targets.tolist() == [[1, 2, 3, 4]] * 2


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(0, 60),
    seq_len=st.integers(1, 20),
    batch_size=st.integers(1, 9),
    windows=st.sampled_from([WINDOWS[0], WINDOWS[-1]]),
)
def test_every_token_but_the_first_is_a_target_once(make, length, seq_len, batch_size, windows):
    dataset = make(length, windows=windows)
    batches = list(sequential_batches(dataset, seq_len=seq_len, batch_size=batch_size))
    targets = [int(token) for batch in batches for token in batch.targets.flatten()]
    assert targets == list(range(1, length))
    for batch in batches:
        assert (batch.targets == batch.inputs + 1).all()
        assert batch.inputs.shape[0] <= batch_size
        assert batch.inputs.shape[1] <= seq_len
        assert batch.weights is batch.documents is batch.positions is None


def test_the_ragged_tail_is_a_batch_of_its_own(make):
    batches = sequential_batches(make(12), seq_len=4, batch_size=2)
    assert [batch.inputs.shape for batch in batches] == [(2, 4), (1, 3)]


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.integers(0, 14), min_size=1, max_size=9),
    windows=st.sampled_from(WINDOWS[1:]),
    part=st.sampled_from(["train", "dev"]),
    batch_size=st.integers(1, 9),
)
def test_windows_of_the_preparation_come_once_and_in_order(
    make, documents, windows, part, batch_size
):
    facts = {"windows": windows}
    if windows["mode"] == "segment":
        facts["held_out"] = {"share": 0.4, "seed": 1, "part": part}
    dataset = make(*documents, **facts)
    flags = {"document_mask": True, "reset_positions": True}
    try:
        found = make_windows(dataset, seq_len=4)
    except DataError:
        with pytest.raises(DataError):
            next(sequential_batches(dataset, seq_len=4, batch_size=batch_size))
        return
    batches = list(sequential_batches(dataset, seq_len=4, batch_size=batch_size, **flags))
    starts, lengths = found.spans(np.arange(found.count), epoch=0)
    spans = list(zip(starts.tolist(), lengths.tolist(), strict=True))
    for number, batch in enumerate(batches):
        own = spans[number * batch_size : (number + 1) * batch_size]
        width = 4 if windows.get("short") == "pad" else max(length for _, length in own)
        assert_equal(batch, slow_batch(dataset, own, width))
    assert sum(len(batch.inputs) for batch in batches) == len(spans)


def test_masks_of_the_whole_stream(make):
    flags = {"document_mask": True, "reset_positions": True}
    dataset = make(3, 1, 6, 2)
    batches = list(sequential_batches(dataset, seq_len=4, batch_size=2, **flags))
    assert_equal(batches[0], slow_batch(dataset, [(0, 4), (4, 4)], 4))
    assert_equal(batches[1], slow_batch(dataset, [(8, 3)], 3))
