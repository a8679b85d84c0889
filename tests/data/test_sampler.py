"""Batches are a function of the seed and the step, and an epoch reads each window once."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.data import TokenDataset, WindowSampler, sequential_batches
from gptlab.data.shards import ShardWriter
from gptlab.errors import DataError


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Datasets whose tokens are 0, 1, 2, ..., so that a token says where it stands."""
    folder = tmp_path_factory.mktemp("datasets")
    made: dict[int, TokenDataset] = {}

    def dataset(length: int) -> TokenDataset:
        if length not in made:
            made[length] = TokenDataset(_write(folder / str(length), length))
        return made[length]

    return dataset


def _write(folder: Path, length: int) -> Path:
    folder.mkdir()
    writer = ShardWriter(folder, vocab_size=70_000, shard_tokens=13)
    writer.write(range(length))
    writer.finish(tokenizer="")
    return folder


def sampler_of(dataset: TokenDataset, **changes: object) -> WindowSampler:
    settings = {"seq_len": 4, "batch_size": 3, "seed": 0, "shuffle": True} | changes
    return WindowSampler(dataset, **settings)


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
    windows = (length - 1) // seq_len
    assert sampler.num_windows == windows
    steps = -(-3 * windows // batch_size)
    starts = [int(row[0]) for step in range(steps) for row in sampler.batch(step).inputs]
    for epoch in range(3):
        read = starts[epoch * windows : (epoch + 1) * windows]
        expected = [window * seq_len for window in range(windows)]
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
    inputs, targets = sampler.batch(2)
    assert inputs.shape == targets.shape == (batch_size, seq_len)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()
    assert (np.diff(inputs, axis=1) == 1).all()


def test_a_batch_depends_on_seed_and_step_alone(make):
    straight = [sampler_of(make(50), seed=7).batch(step).inputs for step in range(20)]
    jumping = sampler_of(make(50), seed=7)
    for step in (19, 3, 11, 0, 3, 18):
        np.testing.assert_array_equal(jumping.batch(step).inputs, straight[step])
    np.random.seed(1)
    np.testing.assert_array_equal(sampler_of(make(50), seed=7).batch(5).inputs, straight[5])


def test_seeds_and_epochs_have_orders_of_their_own(make):
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = sampler_of(make(101), batch_size=25, seed=seed)
        return tuple(sampler.batch(epoch).inputs[:, 0].tolist())

    orders = Counter(order(seed, epoch) for seed in range(4) for epoch in range(4))
    assert len(orders) == 16


def test_epoch_counts_windows(make):
    sampler = sampler_of(make(41), batch_size=4)
    assert sampler.num_windows == 10
    assert [sampler.epoch(step) for step in (0, 5, 10)] == [0.0, 2.0, 4.0]
    assert [sampler.step_at(epoch) for epoch in (1, 2, 0.4, 0.41)] == [3, 5, 1, 2]


@settings(max_examples=300, deadline=None)
@example(length=101, batch_size=1, epoch=0.28)
@given(
    length=st.integers(5, 60),
    batch_size=st.integers(1, 20),
    epoch=st.one_of(st.floats(0.001, 200), st.integers(1, 2000).map(lambda tenths: tenths / 10)),
)
def test_step_at_is_the_first_step_behind_an_epoch(make, length, batch_size, epoch):
    sampler = sampler_of(make(length), batch_size=batch_size)
    step = sampler.step_at(epoch)
    assert sampler.epoch(step) >= epoch
    assert sampler.epoch(step - 1) < epoch


@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_text_shorter_than_a_window_is_one_line_with_a_remedy(make, length):
    with pytest.raises(DataError) as error:
        sampler_of(make(length))
    message = str(error.value)
    assert f"{length} tokens, but one window takes 5" in message
    assert "--seq_len" in message
    assert "\n" not in message


def test_one_window_is_enough(make):
    inputs, targets = sampler_of(make(5), batch_size=2).batch(0)
    assert inputs.tolist() == [[0, 1, 2, 3]] * 2
    assert targets.tolist() == [[1, 2, 3, 4]] * 2


@settings(max_examples=150, deadline=None)
@given(length=st.integers(0, 60), seq_len=st.integers(1, 20), batch_size=st.integers(1, 9))
def test_every_token_but_the_first_is_a_target_once(make, length, seq_len, batch_size):
    batches = list(sequential_batches(make(length), seq_len=seq_len, batch_size=batch_size))
    targets = [int(token) for batch in batches for token in batch.targets.flatten()]
    assert targets == list(range(1, length))
    for inputs, shifted in batches:
        assert (shifted == inputs + 1).all()
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] <= seq_len


def test_the_ragged_tail_is_a_batch_of_its_own(make):
    batches = sequential_batches(make(12), seq_len=4, batch_size=2)
    assert [batch.inputs.shape for batch in batches] == [(2, 4), (1, 3)]
