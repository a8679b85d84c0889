"""Pairs to batches, as a pure function of the seed, the step and the rank.

batches of an epoch   b0 b1 b2                          which rows: `buckets`
steps                 b2 b0 b1 | b1 b2 b0 | ...         a permutation an epoch, end to end
ranks                 rank r of n reads the rows r, r + n, r + 2n, ... of each
"""

import numpy as np

from gptlab.data.batches import PairBatch
from gptlab.data.buckets import plan_batches
from gptlab.data.pairs import PairDataset
from gptlab.data.permutation import permuted
from gptlab.data.sampler import Sampler, require_rows
from gptlab.data.shards import Int64Array


class PairSampler(Sampler):
    """Every pair once an epoch, those of like length together.

    An epoch has the same number of batches each time.

    Args:
        dataset: Whose pairs.
        batch_size: The most rows of a step, over all processes.
        batch_tokens: The most tokens of a step, filling included.
        seed: Of the order.
        shuffle: Whether the order of the batches, and which rows of about the same lengths go
            together, is random and another one in each epoch.

    Raises:
        ConfigError: A pair alone has more tokens than `batch_tokens`, or neither limit is given.
    """

    def __init__(
        self,
        dataset: PairDataset,
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        seed: int,
        shuffle: bool,
    ) -> None:
        self.dataset = dataset
        self._lengths = (dataset.source_lengths, dataset.target_lengths)
        self._plan = plan_batches(*self._lengths, batch_size=batch_size, batch_tokens=batch_tokens)
        super().__init__(steps_per_epoch=len(self._plan))
        self._seed, self._shuffle = seed, shuffle
        # With batches of tokens, how many rows one has is for the data to say.
        self._batch_size = batch_size if batch_tokens is None else None
        self._epoch, self._order = 0, self._order_of(0)
        self.padding_share = self._plan.filling(self._order, *self._lengths)
        """The share of the tokens that is filling, in the first epoch."""

    @property
    def most_rows(self) -> int:
        """The most rows of a batch, over all processes."""
        return int(np.diff(self._plan.starts, append=len(self.dataset)).max())

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> PairBatch:
        """What `rank` of `world_size` processes reads at step `step`, as wide as for all of them.

        Where the batch has fewer rows than there are processes, those that would have none read
        its first row, with weights of 0.

        Raises:
            ConfigError: There are more processes than `batch_size`.
        """
        if self._batch_size is not None:
            require_rows(self._batch_size, world_size)
        numbers = self._numbers(step)
        own = numbers[rank::world_size]
        batch = self.dataset.batch(
            own if own.size else numbers[:1],
            source_width=int(self.dataset.source_lengths[numbers].max()),
            target_width=int(self.dataset.target_lengths[numbers].max()),
        )
        return batch if own.size else batch._replace(weights=np.zeros_like(batch.weights))

    def _numbers(self, step: int) -> Int64Array:
        """The rows that are read at `step`."""
        epoch, place = divmod(step, len(self._plan))
        if not self._shuffle:
            return self._plan.batch(self._order, place)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        place = int(permuted(place, len(self._plan), seed=self._seed, epoch=epoch))
        return self._plan.batch(self._order, place)

    def _order_of(self, epoch: int) -> Int64Array:
        # The third number tells it from the order of the batches.
        return self._plan.order(self._seed, epoch, 1) if self._shuffle else self._plan.order()
