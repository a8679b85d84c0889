"""Batches on the device, made while the step before them computes.

    thread     make 1 | make 2 | make 3 |   ...
    training   step 0      | step 1      | step 2      | ...

Letters: B batch, T window length.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import torch
from torch import Tensor

from gptlab.data.batches import AnyBatch
from gptlab.data.sampler import Sampler

_AHEAD = 2


class DeviceBatch(NamedTuple):
    """A batch as the model and the loss take it, (B, T) each but where texts have labels."""

    inputs: Tensor
    """int64."""
    targets: Tensor
    """int64, the token after each of the inputs; with labels as in `LabelledBatch`."""
    weights: Tensor | None = None
    """float32, how much each target counts; 1 if None."""
    documents: Tensor | None = None
    """int64, the number of each token's document; None where tokens may look across."""
    positions: Tensor | None = None
    """int64, where each token stands; from 0 in each row if None."""
    lengths: Tensor | None = None
    """int64, (B,) or (B, 2), tokens of each text that has a label, or of each window of which some
    are hidden; None for other windows, and where none is filled up."""
    places: Tensor | None = None
    """int64, where in the inputs the targets are, if those are hidden tokens."""
    sources: Tensor | None = None
    """int64, (B, S), what a Transformer makes the targets of."""
    source_lengths: Tensor | None = None
    """int64, (B,), tokens of each source."""

    @classmethod
    def of(cls, batch: AnyBatch) -> Self:
        """The arrays of `batch`, on the CPU."""
        arrays = batch._asdict().items()
        return cls(**{name: torch.from_numpy(part) for name, part in arrays if part is not None})

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A batch of what `change` makes of each tensor."""
        tensors = self._asdict().items()
        return self._replace(**{name: change(part) for name, part in tensors if part is not None})


class BatchLoader:
    """The batches of a sampler on a device, the next ones made ahead in a thread.

    A batch is what the sampler makes of its step, whichever steps were asked for before, and what
    fails in the thread is raised at the step that needs it.

    Args:
        sampler: Used by the thread alone.
        device: Where the batches go; to a GPU they are copied from pinned memory.
        rank: Which of the job's processes this is; each has rows of its own.
        world_size: How many there are.
        ahead: Number of batches to make ahead, if the steps come one after another.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        ahead: int = _AHEAD,
    ) -> None:
        self.seconds_waited = 0.0
        """Time in which whoever asked for a batch waited for it to be made."""
        self._sampler, self._device, self._ahead = sampler, device, ahead
        self._rank, self._world_size = rank, world_size
        # Starts its thread with the first batch.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._pending: dict[int, Future[DeviceBatch]] = {}

    def batch(self, step: int) -> DeviceBatch:
        """The batch of `step`, counted from 0."""
        wanted = range(step, step + 1 + self._ahead)
        for unwanted in self._pending.keys() - set(wanted):
            self._pending.pop(unwanted).cancel()
        for number in wanted:
            if number not in self._pending:
                self._pending[number] = self._pool.submit(self._make, number)
        start = time.perf_counter()
        batch = self._pending.pop(step).result()
        self.seconds_waited += time.perf_counter() - start
        return batch.each(lambda part: part.to(self._device, non_blocking=True))

    def close(self) -> None:
        """Make no further batch."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self, step: int) -> DeviceBatch:
        arrays = self._sampler.batch(step, rank=self._rank, world_size=self._world_size)
        batch = DeviceBatch.of(arrays)
        if self._device.type != "cuda":
            return batch
        # Memory is pinned for the thread's current GPU, which otherwise is the first one.
        with torch.cuda.device(self._device):
            # A copy from strided memory would go through a temporary that is not pinned.
            return batch.each(lambda part: part.contiguous().pin_memory())
