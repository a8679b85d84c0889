"""Where windows lie, against lists that are made one by one."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.data import DatasetWriter, TokenDataset, windows
from gptlab.data.permutation import random_words
from gptlab.data.windows import (
    ChunkWindows,
    PartOfWindows,
    SegmentWindows,
    StreamWindows,
    Windows,
    is_held_out,
    make_windows,
)
from gptlab.errors import ConfigError, DataError


def listed(found: Windows, *, epoch: int = 0) -> list[tuple[int, int]]:
    starts, lengths = found.spans(np.arange(found.count), epoch=epoch)
    assert starts.dtype == lengths.dtype == np.int64
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))


def dataset_of(folder: Path, sizes: list[int], **facts: object) -> TokenDataset:
    writer = DatasetWriter(folder, vocab_size=300)
    for size in sizes:
        writer.write([0] * size)
        writer.end_document()
    writer.finish(tokenizer="", characters=0, bytes=0, **facts)
    return TokenDataset(folder)


@settings(max_examples=200, deadline=None)
@given(tokens=st.integers(0, 80), length=st.integers(1, 9))
def test_a_stream_in_order_is_cut_end_to_end(tokens, length):
    expected = [(start, length) for start in range(0, max(tokens - length, 0), length)]
    assert listed(StreamWindows(tokens, length=length)) == expected


@settings(max_examples=200, deadline=None)
@example(length=1, more=1, seed=0, epoch=0)
@given(
    length=st.integers(1, 9),
    more=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2**40),
)
def test_a_shuffled_stream_is_cut_end_to_end_from_an_offset(length, more, seed, epoch):
    tokens = length + more
    found = StreamWindows(tokens, length=length, seed=seed, shuffle=True)
    assert found.count == max(1, (tokens - length) // length)
    spans = listed(found, epoch=epoch)
    offset = spans[0][0]
    assert spans == [(offset + number * length, length) for number in range(found.count)]
    assert offset >= 0
    assert spans[-1][0] + length < tokens


def test_each_offset_is_drawn_equally_often():
    found = StreamWindows(47, length=5, seed=2, shuffle=True)
    assert found.count == 8
    trials = 2000
    offsets = [listed(found, epoch=epoch)[0][0] for epoch in range(trials)]
    counts = [offsets.count(offset) for offset in range(7)]
    assert sum(counts) == trials
    expected = trials / 7
    # Exceeded once in a thousand times with 6 degrees of freedom.
    assert sum((count - expected) ** 2 / expected for count in counts) < 22.5
    others = StreamWindows(47, length=5, seed=3, shuffle=True)
    assert offsets != [listed(others, epoch=epoch)[0][0] for epoch in range(trials)]


def slow_chunks(sizes: list[int], length: int, *, keep_short: bool) -> list[tuple[int, int]]:
    spans, start = [], 0
    for size in sizes:
        for begin in range(0, size - 1, length):
            targets = min(length, size - 1 - begin)
            if targets == length or keep_short:
                spans.append((start + begin, targets))
        start += size
    return spans


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20), max_size=12),
    length=st.integers(1, 8),
    keep_short=st.booleans(),
)
def test_chunks_stay_within_documents(sizes, length, keep_short):
    ends = np.cumsum(sizes, dtype=np.uint64)
    found = ChunkWindows(ends, length=length, keep_short=keep_short)
    assert listed(found, epoch=5) == slow_chunks(sizes, length, keep_short=keep_short)


def test_the_chunks_of_a_document():
    ends = np.array([10, 11, 16], dtype=np.uint64)
    kept = ChunkWindows(ends, length=4, keep_short=True)
    assert listed(kept) == [(0, 4), (4, 4), (8, 1), (11, 4)]
    dropped = ChunkWindows(ends, length=4, keep_short=False)
    assert listed(dropped) == [(0, 4), (4, 4), (11, 4)]


def test_chunks_far_inside_a_dataset_are_exact():
    begin = (1 << 60) + 1
    ends = np.array([begin, begin + 10], dtype=np.uint64)
    found = ChunkWindows(ends, length=4, keep_short=True)
    numbers = np.arange(found.count - 3, found.count)
    starts, lengths = found.spans(numbers, epoch=0)
    assert starts.tolist() == [begin, begin + 4, begin + 8]
    assert lengths.tolist() == [4, 4, 1]


@settings(max_examples=200, deadline=None)
@given(tokens=st.integers(0, 90), length=st.integers(1, 12), stride=st.integers(1, 15))
def test_segments_start_every_stride(tokens, length, stride):
    expected = []
    start = 0
    while start + length + 1 <= tokens:
        expected.append((start, length))
        start += stride
    assert listed(SegmentWindows(tokens, length=length, stride=stride)) == expected


def slow_fate(number: int, *, share: float, seed: int) -> bool:
    mask = (1 << 64) - 1
    value = (int(random_words(seed, count=1)[0]) + number * 0x9E3779B97F4A7C15) & mask
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & mask
    return (value ^ (value >> 31)) < share * 2**64


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(4, 1500),
    stride=st.integers(1, 3),
    share=st.one_of(st.sampled_from([0.0, 1 - 2**-53]), st.floats(0, 1, exclude_max=True)),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_window_is_in_one_part_by_its_number(tokens, stride, share, seed):
    every = SegmentWindows(tokens, length=3, stride=stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_PASS", 2 * windows._BLOCK)
        parts = {
            part: PartOfWindows(every, share=share, seed=seed, part=part)
            for part in ("train", "dev")
        }
    spans = listed(every)
    for part, found in parts.items():
        own = [
            span
            for number, span in enumerate(spans)
            if slow_fate(number, share=share, seed=seed) == (part == "dev")
        ]
        assert found.count == len(own)
        assert listed(found) == own


def test_the_share_of_held_out_windows():
    numbers = np.arange(100_000)
    for share in (0.01, 0.1, 0.5):
        deviation = math.sqrt(share * (1 - share) / numbers.size)
        held_out = is_held_out(numbers, share=share, seed=1)
        assert held_out.mean() == pytest.approx(share, abs=4 * deviation)
        # Not in runs: a window's fate says nothing about the next one's.
        both = (held_out[1:] & held_out[:-1]).mean()
        assert both == pytest.approx(share**2, abs=4 * share / math.sqrt(numbers.size))
    first = is_held_out(numbers, share=0.5, seed=1)
    assert 0.49 < (first == is_held_out(numbers, share=0.5, seed=2)).mean() < 0.51


def test_the_preparation_says_how_windows_lie(tmp_path):
    sizes = [7, 2, 30, 11]
    chunk = {"mode": "chunk", "seq_len": 4}
    segment = {"mode": "segment", "segment_len": 4, "stride": 3}
    stream = make_windows(dataset_of(tmp_path / "a", sizes), seq_len=6)
    assert listed(stream) == listed(StreamWindows(50, length=6))
    assert stream.length == 6
    for short in ("drop", "keep", "pad"):
        data = dataset_of(tmp_path / short, sizes, windows=chunk | {"short": short})
        found = make_windows(data, seq_len=6, shuffle=True)
        assert listed(found) == slow_chunks(sizes, 4, keep_short=short != "drop")
        assert found.length == 4
    every = make_windows(dataset_of(tmp_path / "b", sizes, windows=segment), seq_len=4)
    assert listed(every) == listed(SegmentWindows(50, length=4, stride=3))
    held_out = {"share": 0.3, "seed": 5}
    for part in ("train", "dev"):
        data = dataset_of(
            tmp_path / part, sizes, windows=segment, held_out=held_out | {"part": part}
        )
        expected = PartOfWindows(every, **held_out, part=part)
        assert 0 < expected.count < every.count
        found = make_windows(data, seq_len=9)
        assert listed(found) == listed(expected)
        assert found.length == 4


@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_text_shorter_than_a_window_is_one_line_with_a_remedy(tmp_path, length):
    with pytest.raises(DataError) as error:
        make_windows(dataset_of(tmp_path, [length]), seq_len=4)
    message = str(error.value)
    assert f"{length} tokens, but one window takes 5" in message
    assert "--seq_len" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"windows": {"mode": "chunk", "seq_len": 4}},
            "no document of .* has the 5 tokens that a window takes; prepare it again with "
            "--short keep, a smaller --seq_len, or longer documents",
        ),
        (
            {"windows": {"mode": "segment", "segment_len": 8}},
            "has 8 tokens, but one window takes 9; prepare it again with a smaller --segment_len",
        ),
        (
            {
                "windows": {"mode": "segment", "segment_len": 4},
                "held_out": {"share": 0.0, "seed": 0, "part": "dev"},
            },
            "has 1 windows, but none of them is in its part 'dev'; prepare it again with another "
            "--dev_size",
        ),
    ],
)
def test_a_dataset_without_a_window_is_refused(tmp_path, facts, message):
    with pytest.raises(DataError, match=message):
        make_windows(dataset_of(tmp_path, [4, 4], **facts), seq_len=8)


def test_documents_of_their_end_alone_have_no_window(tmp_path):
    data = dataset_of(tmp_path, [1, 1], windows={"mode": "chunk", "short": "keep"})
    with pytest.raises(DataError, match=r"has the 2 tokens .* prepare it again from longer doc"):
        make_windows(data, seq_len=128)


@pytest.mark.parametrize(
    ("facts", "flag"),
    [
        ({"mode": "chunk", "seq_len": 9}, "--seq_len 8"),
        ({"mode": "segment", "segment_len": 9}, "--segment_len 8"),
    ],
)
def test_windows_longer_than_the_model_reads_are_refused(tmp_path, facts, flag):
    data = dataset_of(tmp_path, [20], windows=facts)
    message = f"have 9 tokens, but seq_len is 8; prepare .* with {flag}, or train with --seq_len 9"
    with pytest.raises(ConfigError, match=message):
        make_windows(data, seq_len=8)
    assert make_windows(data, seq_len=9).length == 9
