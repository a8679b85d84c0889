"""Whole documents in windows: each once, none cut where it fits, none above the length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import WindowConfig
from gptlab.data import DatasetWriter, TokenDataset, WindowSampler, packing, sequential_batches
from gptlab.data.packing import PackedTokens, pack, packing_of
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer.chat import TEMPLATES

TEMPLATE = TEMPLATES["plain"].model_dump(mode="json")


def written(folder, documents, *, seq_len, shard_tokens=1 << 20):
    """A dataset whose document d has the tokens 1000 * d, 1000 * d + 1, ...; all but the first of
    each count, or what the mask says."""
    writer = DatasetWriter(folder, vocab_size=70000, shard_tokens=shard_tokens, masked=True)
    for number, mask in enumerate(documents):
        writer.write(1000 * number + np.arange(len(mask)), mask)
        writer.end_document()
    writer.finish(
        tokenizer="",
        characters=0,
        bytes=0,
        pad_id=7,
        windows=WindowConfig(mode="conversations", seq_len=seq_len).model_dump(),
        chat_template=TEMPLATE,
    )
    return TokenDataset(folder)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), max_size=60),
    more=st.integers(0, 20),
    block=st.integers(1, 70),
)
def test_each_document_is_in_one_bin_and_no_bin_is_too_full(lengths, more, block):
    capacity = max(lengths, default=1) + more
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_BLOCK", block)
        bins = list(pack(np.array(lengths, np.int64), capacity=capacity))
    assert sorted(number for one in bins for number in one) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in one) <= capacity for one in bins)
    assert all(one == sorted(one) for one in bins)
    firsts = [one[0] for one in bins]
    blocks = [first // block for first in firsts]
    assert blocks == sorted(blocks)
    # No two bins of a block would fit into one.
    for number in set(blocks):
        sums = [sum(lengths[n] for n in one) for one in bins if one[0] // block == number]
        assert all(a + b > capacity for i, a in enumerate(sums) for b in sums[:i])


def test_little_is_wasted_on_conversations_of_usual_lengths():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 5000).astype(np.int64).clip(2, 1025)
    bins = list(pack(lengths, capacity=1025))
    assert lengths.sum() / (1025 * len(bins)) > 0.98


masks = st.lists(st.integers(0, 1), min_size=1, max_size=14).map(lambda mask: [0, *mask])


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(masks, min_size=1, max_size=12),
    seq_len=st.integers(1, 9),
    shard=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_an_epoch_has_each_conversation_once_as_naive_lists_say(
    tmp_path_factory, documents, seq_len, shard, seed
):
    # A conversation has an answer; one that is cut before it can't teach anything.
    documents = [[*mask, 1] for mask in documents]
    folder = tmp_path_factory.mktemp("data")
    dataset = written(folder, documents, seq_len=seq_len, shard_tokens=shard)
    kept = {
        number: mask[: seq_len + 1]
        for number, mask in enumerate(documents)
        if any(mask[: seq_len + 1])
    }
    if not kept:
        with pytest.raises(DataError, match="no conversation"):
            WindowSampler(dataset, seq_len=seq_len, batch_size=1, seed=0, shuffle=False)
        return
    sampler = WindowSampler(dataset, seq_len=seq_len, batch_size=3, seed=seed, shuffle=True)
    batch = sampler.rows(range(sampler.num_windows))
    assert batch.inputs.shape == (sampler.num_windows, seq_len)
    seen = {}
    for row in range(sampler.num_windows):
        tokens = [*batch.inputs[row].tolist(), batch.targets[row, -1]]
        for place in range(seq_len):
            token, target = batch.inputs[row, place], batch.targets[row, place]
            number, offset = divmod(int(token), 1000)
            if batch.documents[row, place] < 0 or (token, target) == (7, 7):
                assert batch.weights[row, place] == 0
                continue
            assert batch.positions[row, place] == offset
            follows = target == token + 1
            counts = follows and kept[number][offset + 1] == 1
            assert batch.weights[row, place] == counts
            if counts:
                seen.setdefault(number, []).append(offset + 1)
        assert len(tokens) == seq_len + 1
    expected = {n: [i for i, mark in enumerate(mask) if mark] for n, mask in kept.items()}
    assert seen == expected
    assert packing_of(dataset).targets == sum(map(len, expected.values()))
    in_order = list(sequential_batches(dataset, seq_len=seq_len, batch_size=2))
    assert sum(float(one.weights.sum()) for one in in_order) == batch.weights.sum()


def test_a_conversation_longer_than_a_window_keeps_its_beginning(tmp_path):
    long, late = [0, 1, 1, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1]
    dataset = written(tmp_path, [[0, 1], long, late], seq_len=4)
    packed = PackedTokens(dataset, length=4)
    assert packed.num_cut == 2
    # The last one has no answer within the window.
    tokens = packed.read_many([0], len(packed))[0].tolist()
    assert tokens == [0, 1, 1000, 1001, 1002, 1003, 1004]
    assert packed.window_ends.tolist() == [2, 7]


def test_a_window_fills_up_with_padding_that_weighs_nothing(tmp_path):
    dataset = written(tmp_path, [[0, 1, 1], [0, 1]], seq_len=8)
    sampler = WindowSampler(dataset, seq_len=8, batch_size=1, seed=0, shuffle=False)
    batch = sampler.batch(0)
    assert batch.inputs.tolist() == [[0, 1, 2, 1000, 7, 7, 7, 7]]
    assert batch.targets.tolist() == [[1, 2, 1000, 1001, 7, 7, 7, 7]]
    assert batch.weights.tolist() == [[1, 1, 0, 1, 0, 0, 0, 0]]
    assert batch.documents.tolist()[0][:4] == [0, 0, 0, 1]
    assert set(batch.documents.tolist()[0][4:]).isdisjoint({0, 1})
    assert batch.positions.tolist() == [[0, 1, 2, 0, 0, 0, 0, 0]]


def test_conversations_are_kept_apart_unless_told_otherwise(tmp_path):
    dataset = written(tmp_path, [[0, 1, 1], [0, 1]], seq_len=8)
    options = {"seq_len": 8, "batch_size": 1, "seed": 0, "shuffle": False}
    told = WindowSampler(dataset, **options, document_mask=False, reset_positions=False).batch(0)
    assert (told.documents, told.positions) == (None, None)
    assert told.weights.tolist() == WindowSampler(dataset, **options).batch(0).weights.tolist()


def test_a_shorter_model_is_refused(tmp_path):
    dataset = written(tmp_path, [[0, 1]], seq_len=8)
    with pytest.raises(ConfigError, match=r"windows of .* have 8 tokens, but seq_len is 4; prep"):
        WindowSampler(dataset, seq_len=4, batch_size=1, seed=0, shuffle=False)
