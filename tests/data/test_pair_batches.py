"""Batches of pairs: encoded, put together by length and drawn, against loops over single rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.corpus.pairs import Pair, PairFields, read_pairs
from gptlab.data import PairDataset, PairSampler
from gptlab.data.buckets import plan_batches
from gptlab.data.labelled_rows import split_rows
from gptlab.errors import ConfigError, DataError, TokenizerError
from gptlab.tokenizer import BPETokenizer, train_bpe

BYTES = BPETokenizer([])
START, END = BYTES.bos_id, BYTES.eos_id
TRAIN = Path(__file__).parents[2] / "toy_data" / "tiny_pairs_train.tsv"


def pair(source, target):
    return Pair("f, line 1", 0, source, target)


def dataset(lengths):
    """A pair of each two lengths, with its number as its first letters."""
    rows = [
        pair(chr(97 + n % 26) * (source - 1), chr(97 + n // 26) * (target - 1))
        for n, (source, target) in enumerate(lengths)
    ]
    return PairDataset(rows, BYTES, BYTES, length=10_000)


class Lengths:
    """As much of a dataset as decides which rows go together; its batches are their numbers."""

    def __init__(self, sources, targets):
        self.source_lengths, self.target_lengths = np.array(sources), np.array(targets)

    def batch(self, numbers, **_):
        return numbers


def drawn_lengths(count, *, spread=0.6, ratio=0.25, seed=0):
    """Those of a translation: log-normal, and a target's is its source's give or take some."""
    rng = np.random.default_rng(seed)
    logs = np.log(20) + spread * rng.standard_normal(count)
    targets = logs + ratio * rng.standard_normal(count)
    return Lengths(*(np.exp(side).clip(1, 200).astype(int) + 1 for side in (logs, targets)))


def epoch_of(sampler, epoch=0, **ranks):
    steps = int(sampler.steps_per_epoch)
    return [sampler.batch(epoch * steps + step, **ranks) for step in range(steps)]


lengths_lists = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=80)
limits = st.one_of(
    st.builds(lambda tokens: {"batch_tokens": tokens}, st.integers(60, 300)),
    st.builds(lambda rows: {"batch_size": rows}, st.integers(1, 20)),
    st.builds(
        lambda rows, tokens: {"batch_size": rows, "batch_tokens": tokens},
        st.integers(1, 20),
        st.integers(60, 300),
    ),
)


def test_a_batch_is_its_rows():
    rows = [pair("ab", "c"), pair("ä", "xyz"), pair("abc", "")]
    found = PairDataset(rows, BYTES, BYTES, length=8)
    batch = found.batch(np.array([1, 0]))
    a, b, c, x, y, z = b"abcxyz"
    assert batch.sources.tolist() == [[0xC3, 0xA4, END], [a, b, END]]
    assert batch.source_lengths.tolist() == [3, 3]
    assert batch.inputs.tolist() == [[START, x, y, z], [START, c, 0, 0]]
    assert batch.targets.tolist() == [[x, y, z, END], [c, END, 0, 0]]
    assert batch.weights.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert [part.dtype for part in batch] == [np.int64] * 4 + [np.float32]
    wide = found.batch(np.array([2]), source_width=6, target_width=2)
    assert wide.sources.tolist() == [[a, b, c, END, 0, 0]]
    assert (wide.inputs.tolist(), wide.targets.tolist()) == ([[START, 0]], [[END, 0]])
    assert [found.texts(number) for number in range(3)] == [row[2:] for row in rows]
    assert (len(found), found.num_long, found.num_targets, found.num_tokens) == (3, 0, 7, 17)
    assert found.tokens_per_row == 17 / 3


def test_two_tokenizers():
    words = train_bpe(texts=["ab ab ab cd cd"], vocab_size=262)
    found = PairDataset([pair("abab", "abab")], words, BYTES, length=9)
    batch = found.batch(np.array([0]))
    assert batch.sources.tolist() == [[*words.encode("abab"), words.eos_id]]
    assert batch.targets.tolist() == [[*b"abab", END]]
    assert len(batch.sources[0]) < 5


def test_a_target_begins_with_the_end_where_there_is_no_start():
    class Plain:
        bos_id, eos_id = None, 7

        def encode_batch(self, texts):
            return [[1] * len(text) for text in texts]

    found = PairDataset([pair("ab", "abc")], Plain(), Plain(), length=9)
    assert found.batch(np.array([0])).inputs.tolist() == [[7, 1, 1, 1]]
    Plain.eos_id = None
    with pytest.raises(TokenizerError, match="no token that ends a sequence, which sources and"):
        PairDataset([pair("ab", "abc")], Plain(), Plain(), length=9)


def test_long_pairs_are_left_out_whole():
    rows = [pair("a" * 5, "b"), pair("a", "b" * 5), pair("a" * 4, "b" * 4), pair("cc", "d")]
    found = PairDataset(rows, BYTES, BYTES, length=5)
    assert (len(found), found.num_long) == (2, 2)
    assert [found.texts(number) for number in range(2)] == [("aaaa", "bbbb"), ("cc", "d")]
    assert found.batch(np.array([0])).targets.shape == (1, 5)
    with pytest.raises(DataError, match="not one of 4 pairs is within 2 tokens, the shorte"):
        PairDataset(rows, BYTES, BYTES, length=2)


def test_the_fingerprint_is_of_the_tokens():
    def digest(*rows, length=9):
        return PairDataset([pair(*row) for row in rows], BYTES, BYTES, length=length).fingerprint()

    same = digest(("a", "bc"), ("d", "e"))
    assert digest(("a", "bc"), ("d", "e"), ("f" * 9, "g"), length=9) == same
    others = [digest(("a", "bc"), ("d", "f")), digest(("d", "e"), ("a", "bc")), digest(("a", "bc"))]
    assert len({same, *others}) == 4


def test_pairs_are_split_by_their_draws(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"s{n}\tt{n}\n" for n in range(60)))
    rows = read_pairs([path], fields=PairFields())
    train, held_out = split_rows(rows, 0.2)
    assert sorted(train + held_out) == sorted(rows)
    assert max(row.draw for row in held_out) < min(row.draw for row in train)


@settings(max_examples=150, deadline=None)
@given(lengths_lists, limits, st.booleans(), st.integers(0, 2))
def test_every_row_once_an_epoch_and_the_limits_kept(lengths, limit, shuffle, seed):
    rows = Lengths(*zip(*lengths, strict=True))
    sampler = PairSampler(rows, **limit, seed=seed, shuffle=shuffle)
    for epoch in (0, 3):
        batches = epoch_of(sampler, epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        for numbers in batches:
            widths = rows.source_lengths[numbers].max() + rows.target_lengths[numbers].max()
            assert 0 < len(numbers) <= limit.get("batch_size", len(lengths))
            assert len(numbers) * widths <= limit.get("batch_tokens", np.inf)
    if "batch_tokens" not in limit:
        assert len(batches) == -(-len(lengths) // limit["batch_size"])


@settings(max_examples=60, deadline=None)
@given(lengths_lists, limits, st.lists(st.integers(0, 200), min_size=1, max_size=8), st.booleans())
def test_a_batch_is_a_function_of_its_step(lengths, limit, steps, shuffle):
    rows = Lengths(*zip(*lengths, strict=True))
    sampler = PairSampler(rows, **limit, seed=5, shuffle=shuffle)
    for step in [*steps, *steps[::-1]]:
        fresh = PairSampler(rows, **limit, seed=5, shuffle=shuffle)
        assert np.array_equal(sampler.batch(step), fresh.batch(step))


@settings(max_examples=60, deadline=None)
@given(lengths_lists, st.integers(60, 300), st.integers(1, 5), st.integers(0, 100))
def test_all_processes_together_read_what_one_does(lengths, tokens, world_size, step):
    sampler = PairSampler(dataset(lengths), batch_tokens=tokens, seed=1, shuffle=True)
    whole = sampler.batch(step)
    for rank in range(world_size):
        part = sampler.batch(step, rank=rank, world_size=world_size)
        expected = [side[rank::world_size] for side in whole]
        if rank >= len(whole.sources):
            # It has no row, and takes one that does not count.
            expected = [side[:1] for side in whole[:-1]] + [np.zeros_like(whole.weights[:1])]
        for own, side in zip(part, expected, strict=True):
            assert np.array_equal(own, side)


def test_more_processes_than_rows_are_refused():
    sampler = PairSampler(dataset([(3, 3)] * 4), batch_size=2, seed=0, shuffle=True)
    with pytest.raises(ConfigError, match="batch_size is 2, too few for 3 processes"):
        sampler.batch(0, world_size=3)
    assert sampler.batch(0, rank=1, world_size=2).weights.sum() == 3


def test_epochs_are_counted_in_batches():
    sampler = PairSampler(Lengths([5] * 7, [5] * 7), batch_tokens=20, seed=0, shuffle=True)
    assert sampler.steps_per_epoch == 4
    assert [sampler.epoch(step) for step in (0, 2, 4, 9)] == [0, 0.5, 1, 2.25]
    assert [sampler.step_at(epoch) for epoch in (0, 0.3, 1, 2.5)] == [0, 2, 4, 10]


def test_each_epoch_has_another_order_and_other_companies():
    rows = drawn_lengths(20_000)
    sampler = PairSampler(rows, batch_tokens=1024, seed=0, shuffle=True)
    epochs = [epoch_of(sampler, epoch) for epoch in (0, 1)]
    firsts = [[int(rows.source_lengths[batch].max()) for batch in epoch] for epoch in epochs]
    assert sorted(firsts[0]) != firsts[0] != firsts[1]
    companies = [{frozenset(batch.tolist()) for batch in epoch} for epoch in epochs]
    assert len(companies[0] & companies[1]) < 0.1 * len(companies[0])
    other = PairSampler(rows, batch_tokens=1024, seed=1, shuffle=True)
    assert not np.array_equal(other.batch(0), sampler.batch(0))
    fixed = PairSampler(rows, batch_tokens=1024, seed=0, shuffle=False)
    for one, two in zip(*(epoch_of(fixed, epoch) for epoch in (0, 1)), strict=True):
        assert np.array_equal(one, two)


def measured_filling(rows, batches):
    padded = sum(
        len(batch) * (rows.source_lengths[batch].max() + rows.target_lengths[batch].max())
        for batch in batches
    )
    return 1 - (rows.source_lengths.sum() + rows.target_lengths.sum()) / padded


@pytest.mark.parametrize("batch_tokens", [2048, 4096])
@pytest.mark.parametrize(("spread", "ratio"), [(0.5, 0.2), (0.6, 0.25), (0.7, 0.35)])
@pytest.mark.parametrize("count", [3_000, 30_000])
def test_less_than_a_tenth_is_filling(batch_tokens, spread, ratio, count):
    rows = drawn_lengths(count, spread=spread, ratio=ratio)
    sampler = PairSampler(rows, batch_tokens=batch_tokens, seed=0, shuffle=True)
    for epoch in (0, 1):
        filling = measured_filling(rows, epoch_of(sampler, epoch))
        assert filling < 0.1
        if epoch == 0:
            assert sampler.padding_share == pytest.approx(filling, abs=1e-12)
    # And not because batches are small, if there are enough rows to fill them.
    fewest = (rows.source_lengths.sum() + rows.target_lengths.sum()) / batch_tokens
    assert sampler.steps_per_epoch < (1.35 if count > 3_000 else 3.5) * fewest


@pytest.mark.parametrize(("count", "batch_tokens"), [(1_000, 4096), (10_000, 50_000)])
def test_no_batch_is_tiny_where_few_pairs_are_for_large_ones(count, batch_tokens):
    rows = drawn_lengths(count)
    sampler = PairSampler(rows, batch_tokens=batch_tokens, seed=0, shuffle=False)
    sizes = sorted(
        len(batch) * (rows.source_lengths[batch].max() + rows.target_lengths[batch].max())
        for batch in epoch_of(sampler)
    )
    # The last one along the snake is what is left.
    assert sizes[1] > 0.09 * batch_tokens
    assert sampler.padding_share < 0.13


def test_the_toy_pairs_are_hardly_filled_up():
    rows = read_pairs([TRAIN], fields=PairFields())
    found = PairDataset(rows, BYTES, BYTES, length=128)
    for limit in ({"batch_tokens": 2048}, {"batch_tokens": 4096}, {"batch_size": 64}):
        sampler = PairSampler(found, **limit, seed=0, shuffle=True)
        assert sampler.padding_share < 0.05
        assert measured_filling(found, list(found.groups(**limit))) < 0.05


def test_evaluation_reads_each_row_once_and_always_alike():
    found = dataset([(3 + n % 7, 2 + n % 5) for n in range(50)])
    groups = list(found.groups(batch_tokens=64))
    assert sorted(np.concatenate(groups).tolist()) == list(range(50))
    batches = list(found.batches(batch_tokens=64))
    for numbers, batch in zip(groups, batches, strict=True):
        for own, again in zip(batch, found.batch(numbers), strict=True):
            assert np.array_equal(own, again)
    assert sum(batch.weights.sum() for batch in batches) == found.num_targets
    assert [len(numbers) for numbers in found.groups(batch_size=20)] == [20, 20, 10]


def test_limits_that_can_not_be_kept():
    sources, targets = np.array([3, 50]), np.array([60, 20])
    with pytest.raises(ConfigError) as caught:
        plan_batches(sources, targets, batch_tokens=69)
    assert "batch_tokens is 69, but the longest pair alone has 70 tokens; write" in str(
        caught.value
    )
    assert len(plan_batches(sources, targets, batch_tokens=70)) == 2
    # Of about the same lengths, though not both in one batch.
    assert len(plan_batches(np.array([100, 107]), np.array([107, 100]), batch_tokens=207)) == 2
    with pytest.raises(ConfigError, match="batch_size and batch_tokens are both missing; give one"):
        plan_batches(sources, targets)
    with pytest.raises(ConfigError, match="batch_size is 0; give 1 or more"):
        plan_batches(sources, targets, batch_size=0)
