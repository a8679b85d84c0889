"""Batches made ahead are the batches, and what fails ahead fails in its place."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data import Batch, WindowSampler
from gptlab.training import train
from gptlab.training.loader import BatchLoader, DeviceBatch
from gptlab.training.metrics import read_metrics
from gptlab.training.session import open_session

CPU = torch.device("cpu")


class Counting:
    """A sampler whose batches say their step, and which notes who asked for them."""

    def __init__(self, *, broken=(), masks=False):
        self.asked, self.threads = [], set()
        self.broken, self.masks = broken, masks

    def batch(self, step, *, rank=0, world_size=1):
        self.asked.append(step)
        self.threads.add(threading.current_thread())
        if step in self.broken:
            raise OSError(f"step {step} can't be read")
        inputs = np.full((2, 3), step * world_size + rank)
        if not self.masks:
            return Batch(inputs, inputs + 1)
        weights = np.full((2, 3), 0.5, dtype=np.float32)
        return Batch(inputs, inputs + 1, weights, inputs % 2, inputs % 3)


def values(batch):
    return [None if part is None else part.tolist() for part in batch]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(0, 3), st.booleans())
def test_any_order_of_steps_gives_each_its_batch(steps, ahead, masks):
    sampler = Counting(masks=masks)
    with BatchLoader(sampler, device=CPU, ahead=ahead) as loader:
        for step in steps:
            expected = DeviceBatch.of(Counting(masks=masks).batch(step))
            assert values(loader.batch(step)) == values(expected)
    assert threading.current_thread() not in sampler.threads
    assert len(sampler.threads) == 1


def test_following_steps_are_made_once_and_ahead():
    sampler = Counting()
    made = threading.Event()
    plain = sampler.batch
    sampler.batch = lambda step, **of: (plain(step, **of), made.set() if step == 2 else None)[0]
    with BatchLoader(sampler, device=CPU, ahead=2) as loader:
        loader.batch(0)
        assert made.wait(timeout=60)
        for step in range(1, 6):
            loader.batch(step)
    assert sampler.asked[:6] == list(range(6))
    assert len(sampler.asked) == len(set(sampler.asked)) <= 8


def test_a_failure_ahead_is_raised_at_its_step():
    with BatchLoader(Counting(broken=[2]), device=CPU) as loader:
        assert values(loader.batch(0))[0] == [[0] * 3] * 2
        assert values(loader.batch(1))[0] == [[1] * 3] * 2
        for _ in range(2):
            with pytest.raises(OSError, match="step 2 can't be read"):
                loader.batch(2)
        assert values(loader.batch(3))[0] == [[3] * 3] * 2


def test_each_process_gets_rows_of_its_own():
    with BatchLoader(Counting(), device=CPU, rank=2, world_size=3) as loader:
        assert values(loader.batch(5))[0] == [[17] * 3] * 2


def test_closing_ends_the_thread():
    sampler = Counting()
    loader = BatchLoader(sampler, device=CPU)
    loader.batch(0)
    loader.close()
    (thread,) = sampler.threads
    assert not thread.is_alive()
    loader.close()


def test_time_spent_waiting_is_counted():
    sampler, release = Counting(), threading.Event()
    plain = sampler.batch
    sampler.batch = lambda step, **of: (release.wait(60), plain(step, **of))[1]
    with BatchLoader(sampler, device=CPU) as loader:
        assert loader.seconds_waited == 0
        threading.Timer(0.05, release.set).start()
        loader.batch(0)
        assert loader.seconds_waited > 0.01


@pytest.mark.usefixtures("without_plots")
def test_a_run_is_the_same_with_and_without_batches_made_ahead(tiny, monkeypatch):
    ahead = train(tiny(experiment_name="ahead", dropout=0.1))
    with monkeypatch.context() as patch:
        patch.setattr(
            BatchLoader,
            "batch",
            lambda self, step: DeviceBatch.of(self._sampler.batch(step)),
        )
        plain = train(tiny(experiment_name="plain", dropout=0.1))
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        files = [result.path / "last-12" / name for result in (ahead, plain)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.usefixtures("without_plots")
def test_a_batch_that_can_not_be_read_ends_the_run_at_its_step(tiny, monkeypatch):
    plain = WindowSampler.batch

    def breaking(self, step, **of):
        if step == 7:
            raise OSError("the disk is gone")
        return plain(self, step, **of)

    monkeypatch.setattr(WindowSampler, "batch", breaking)
    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        train(tiny(log_every=1))
    records = [record for record in read_metrics(Path("runs/tiny")) if record["split"] == "train"]
    assert len(records) == 7
    assert threading.active_count() == before


def test_a_session_reads_through_the_loader(tiny):
    session = open_session(tiny())
    expected = session.sampler.batch(3)
    with session.loader:
        found = session.batch(3)
        assert session.loader.seconds_waited > 0
    np.testing.assert_array_equal(found.inputs.numpy(), expected.inputs)
    np.testing.assert_array_equal(found.targets.numpy(), expected.targets)
    assert (found.weights, found.documents, found.positions) == (None, None, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pins memory for a GPU")
def test_on_a_gpu_batches_come_from_pinned_memory():
    device = torch.device("cuda")
    with BatchLoader(Counting(masks=True), device=device) as loader:
        assert all(part.is_pinned() for part in loader._make(0))
        for step in range(3):
            found = loader.batch(step)
            assert all(part.device.type == "cuda" for part in found)
            assert values(found) == values(DeviceBatch.of(Counting(masks=True).batch(step)))
