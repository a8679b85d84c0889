import math
import mmap
import sys
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import TrainConfig
from gptlab.errors import ConfigError, TrainingError
from gptlab.training import micro_batches
from gptlab.training.loader import DeviceBatch
from gptlab.training.micro_batches import choose_parts, split
from gptlab.training.ranks import Ranks

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@given(st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_parts_are_the_rows_in_order_and_of_one_size_but_for_one(rows, parts, has_places):
    inputs = torch.arange(rows * 3).view(rows, 3)
    places = inputs % 5 if has_places else None
    batch = DeviceBatch(inputs, inputs + 1, weights=inputs.float(), positions=places)
    cut = split(batch, parts)
    sizes = [len(part.inputs) for part in cut]
    assert len(cut) == min(parts, rows)
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    for name, whole in batch._asdict().items():
        pieces = [getattr(part, name) for part in cut]
        if whole is None:
            assert pieces == [None] * len(cut)
        else:
            assert torch.equal(torch.cat(pieces), whole)


def choose(*, rows=None, device=CPU, ranks=None, try_out=None, reserve=0, said=None, **changes):
    config = TrainConfig(**changes)
    ranks = ranks or Ranks()
    return choose_parts(
        config,
        -(-config.batch_size // ranks.size) if rows is None else rows,
        fewest=config.batch_size // ranks.size,
        try_out=try_out or (lambda _rows: pytest.fail("nothing to try out")),
        ranks=ranks,
        device=device,
        say=(said if said is not None else []).append,
        reserve=reserve,
    )


@pytest.mark.parametrize(
    ("changes", "size", "expected"),
    [
        ({}, 1, 1),
        ({"gradient_accumulation_steps": 4}, 1, 4),
        ({"gradient_accumulation_steps": 32}, 1, 32),
        ({"micro_batch_size": 32}, 1, 1),
        ({"micro_batch_size": 100}, 1, 1),
        ({"micro_batch_size": 8}, 1, 4),
        ({"micro_batch_size": 7}, 1, 5),
        ({"micro_batch_size": 7}, 3, 2),
        ({"micro_batch_size": 1}, 2, 16),
    ],
)
def test_a_number_is_what_happens(changes, size, expected):
    assert choose(batch_size=32, ranks=Ranks(size=size), **changes) == expected


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        (
            {"gradient_accumulation_steps": 33},
            1,
            "gradient_accumulation_steps is 33, which makes 33 parts of batch_size 32; write a "
            "larger --batch_size, or --gradient_accumulation_steps 32",
        ),
        (
            {"gradient_accumulation_steps": 11},
            3,
            "gradient_accumulation_steps is 11, which makes 11 parts of batch_size 32, 10 for some "
            "of 3 processes; write a larger --batch_size, or --gradient_accumulation_steps 10",
        ),
        (
            {"micro_batch_size": 1},
            3,
            "micro_batch_size is 1, which makes 11 parts of batch_size 32, 10 for some of 3 "
            "processes; write a larger --batch_size, or --gradient_accumulation_steps 10",
        ),
    ],
)
def test_more_parts_than_rows_are_one_line(changes, size, message):
    with pytest.raises(ConfigError) as error:
        choose(batch_size=32, ranks=Ranks(size=size), **changes)
    assert str(error.value) == message


def fewest_parts(rows, capacity):
    return next(parts for parts in range(1, rows + 1) if -(-rows // parts) <= capacity)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with room for 100 bytes beside the tenth that stays free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (0, 1000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    held = []
    monkeypatch.setattr(torch, "empty", lambda size, **_options: held.append(size))
    return held


def running_out_above(capacity, tried):
    def try_out(rows):
        tried.append(rows)
        if rows > capacity:
            raise torch.OutOfMemoryError

    return try_out


@pytest.mark.parametrize("rows", [1, 2, 7, 32, 64, 1000])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.77, 1.0])
def test_a_gpu_finds_the_fewest_parts_that_run(gpu, rows, share):
    capacity, tried, said = max(1, int(rows * share)), [], []
    parts = choose(
        batch_size=rows,
        micro_batch_size="auto",
        device=GPU,
        try_out=running_out_above(capacity, tried),
        reserve=7,
        said=said,
    )
    assert parts == fewest_parts(rows, capacity)
    assert len(tried) <= 2 + math.log2(2 * math.sqrt(rows) + 1)
    assert set(gpu) == {107}
    assert said == [
        f"micro-batches of {-(-rows // parts)} window(s) fit into memory, {parts} for a step"
    ]


def test_a_gpu_without_room_for_one_window_is_one_line(gpu):
    with pytest.raises(TrainingError, match=r"^not one window fits into memory; write --activ"):
        choose(batch_size=8, micro_batch_size="auto", device=GPU, try_out=running_out_above(0, []))


def test_an_error_of_another_kind_is_not_taken_for_memory(gpu):
    def broken(_rows):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        choose(batch_size=8, micro_batch_size="auto", device=GPU, try_out=broken)


@dataclass
class Machine:
    """One whose memory is a base, gradients from the first probe on, and so much for each row."""

    base: int
    gradients: int
    per_row: int
    free: int

    def __post_init__(self):
        self.now = self.peak = self.base
        self.tried = []

    def try_out(self, rows):
        self.tried.append(rows)
        self.peak = max(self.peak, self.needed(rows))

    def needed(self, rows):
        return self.base + self.gradients + self.per_row * rows

    def restart(self, _device):
        self.peak = self.now
        return self.now

    def limit(self, processes=1):
        return self.base + 0.8 * self.free / processes


def on(machine, patch, **changes):
    patch.setattr(micro_batches, "restart_peak", machine.restart)
    patch.setattr(micro_batches, "peak_memory", lambda _device: machine.peak)
    patch.setattr(micro_batches, "available_memory", lambda _device: machine.free)
    return choose(micro_batch_size="auto", try_out=machine.try_out, **changes)


MEBI = 2**20


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 300),
    base=st.integers(0, 1000),
    gradients=st.integers(0, 2000),
    per_row=st.integers(1, 500),
    free=st.integers(0, 20000),
    reserve=st.integers(0, 500),
)
def test_a_cpu_takes_what_its_memory_holds_without_running_out(
    rows, base, gradients, per_row, free, reserve
):
    machine = Machine(base * MEBI, gradients * MEBI, per_row * MEBI, free * MEBI)
    with pytest.MonkeyPatch.context() as patch:
        parts = on(machine, patch, batch_size=rows, reserve=reserve * MEBI)
    room = machine.limit() - reserve * MEBI
    largest = -(-rows // parts)
    assert largest == 1 or machine.needed(largest) <= room
    assert all(size == 1 or machine.needed(size) <= room for size in machine.tried)
    if machine.tried[-1] > 1:
        # Memory grew by the rows alone between the last two probes, so nothing is guessed.
        capacity = int((room - machine.base - machine.gradients) / machine.per_row)
        assert parts == fewest_parts(rows, max(1, capacity))


@dataclass(frozen=True)
class Job(Ranks):
    """A process of a job in which another one says `other` whenever a minimum is sought."""

    other: int = 10**9

    def min(self, number):
        return min(number, self.other)


def test_processes_agree_on_the_one_with_least_room(monkeypatch):
    machine = Machine(0, 0, 100 * MEBI, 4000 * MEBI)
    assert on(machine, monkeypatch, batch_size=64, ranks=Job(size=2)) == 2
    machine = Machine(0, 0, 100 * MEBI, 4000 * MEBI)
    assert machine.limit(processes=2) == 1600 * MEBI
    assert on(machine, monkeypatch, batch_size=64, ranks=Job(size=2, other=5)) == 7


def test_a_system_that_does_not_tell_is_one_line(monkeypatch):
    def silent(_device):
        raise FileNotFoundError

    monkeypatch.setattr(micro_batches, "restart_peak", silent)
    with pytest.raises(ConfigError, match=r"^micro_batch_size is 'auto', but .*; write a number$"):
        choose(batch_size=4, micro_batch_size="auto")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux alone")
def test_real_memory_is_measured(monkeypatch):
    free = 1000 * MEBI
    monkeypatch.setattr(micro_batches, "available_memory", lambda _device: free)
    row = 20 * MEBI

    def try_out(rows):
        # A map of its own: what earlier tests have freed into the heap would be taken first.
        with mmap.mmap(-1, rows * row) as memory:
            for start in range(0, rows * row, mmap.PAGESIZE):
                memory[start] = 1

    assert choose(batch_size=64, micro_batch_size="auto", try_out=try_out) == 2
