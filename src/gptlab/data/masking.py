"""Tokens that an encoder has to find, hidden in windows as a pure function of seed, step and row.

    window    the  cat  sat  on  the  mat  <EOS>
    inputs    the  ###  sat  on  dog  mat  <EOS>       ###: the mask token
    places          1             4                    of those that were chosen
    targets        cat           the                   what stands there in truth

Of each row a share is chosen, of what stands for text; of the chosen, 80% become the mask token,
10% a random token, and 10% stay (Devlin et al. 2018, https://arxiv.org/abs/1810.04805, 3.1).

Letters: B batch, T window length, P places, the most that are chosen of T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptlab.data.batches import Batch, MaskedBatch
from gptlab.data.permutation import random_words
from gptlab.data.sampler import RowSampler, Sampler, sequential_batches
from gptlab.data.shards import Int64Array, TokenDataset
from gptlab.data.windows import BoolArray
from gptlab.errors import TokenizerError
from gptlab.numbers import UInt64Array, mix
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.mask import mask_id, ordinary_ids

# Tenths of the chosen tokens.
_MASKED, _REPLACED = 8, 1
# Keeps these numbers apart from those of orders and offsets, which have two words and a 1.
_OF_MASKS = 2
# The step of SplitMix64, whose sequences these are.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_DRAWS = 3


@dataclass(frozen=True)
class Masking:
    """What is hidden, and behind what."""

    share: float
    """Of the tokens of a row that stand for text; one at least is chosen."""
    mask_id: int
    ordinary: Int64Array
    """The ids that stand for text, ascending: what is chosen, and what may replace it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, share: float) -> "Masking":
        """That of a tokenizer's texts.

        Raises:
            TokenizerError: It has no mask token.
        """
        found = mask_id(tokenizer)
        if found is None:
            raise TokenizerError(
                "the tokenizer has no mask token such as <MASK>; give that of an encoder"
            )
        return cls(share, found, np.array(ordinary_ids(tokenizer), dtype=np.int64))

    def hide(self, batch: Batch, rows: Sequence[int], *, seed: int, step: int) -> MaskedBatch:
        """`batch` with some of its tokens hidden.

        What comes of a row depends on its own tokens, and on `seed`, `step` and its number.

        Args:
            batch: Windows; where it has weights, they are 0 for filling at the end alone.
            rows: The number of each row.
            seed: Of the run.
            step: Of the batch.
        """
        inputs_BT, is_full = batch.inputs, batch.weights is None
        B, T = inputs_BT.shape
        real_BT = np.ones((B, T), dtype=np.bool_) if batch.weights is None else batch.weights > 0
        order_BTk = _draws(rows, T, seed=seed, step=step)
        may_BT = self._may_be_chosen(inputs_BT, real_BT)
        places_BP, is_chosen_BP = self._choose(order_BTk[..., 0], may_BT)
        targets_BP = np.take_along_axis(inputs_BT, places_BP, axis=1)
        draws_BPk = np.take_along_axis(order_BTk[..., 1:], places_BP[..., np.newaxis], axis=1)
        found_BP = np.where(is_chosen_BP, self._hidden(targets_BP, draws_BPk), targets_BP)
        hidden_BT = inputs_BT.copy()
        np.put_along_axis(hidden_BT, places_BP, found_BP, axis=1)
        return MaskedBatch(
            inputs=hidden_BT,
            targets=targets_BP,
            places=places_BP,
            weights=is_chosen_BP.astype(np.float32),
            lengths=None if is_full else real_BT.sum(axis=1, dtype=np.int64),
        )

    def _may_be_chosen(self, tokens_BT: Int64Array, real_BT: BoolArray) -> BoolArray:
        """Text, and in a row that has none whatever is no filling."""
        may_BT = real_BT & np.isin(tokens_BT, self.ordinary)
        return np.where(may_BT.any(axis=1, keepdims=True), may_BT, real_BT)

    def _choose(
        self, order_BT: UInt64Array, may_BT: BoolArray
    ) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """Places, all different, those that are chosen first; and which are chosen, (B, P) each."""
        T = may_BT.shape[1]
        # Half of a draw is always below what stands for those that can't be chosen.
        ranked_BT = np.where(may_BT, order_BT >> np.uint64(1), np.uint64(1 << 63))
        places_BP = np.argsort(ranked_BT, axis=1, kind="stable")[:, : self._count(T)]
        counts_B1 = self._counts(may_BT.sum(axis=1, keepdims=True))
        is_chosen_BP = np.arange(places_BP.shape[1]) < counts_B1
        return places_BP.astype(np.int64), is_chosen_BP

    def _hidden(self, targets_BP: Int64Array, draws_BPk: UInt64Array) -> Int64Array:
        """What the model reads in the place of `targets_BP`."""
        tenth_BP = draws_BPk[..., 0] % np.uint64(10)
        others_BP = self.ordinary[draws_BPk[..., 1] % np.uint64(len(self.ordinary))]
        kept_BP = np.where(tenth_BP < _MASKED + _REPLACED, others_BP, targets_BP)
        return np.where(tenth_BP < _MASKED, self.mask_id, kept_BP)

    def _count(self, tokens: int) -> int:
        return int(self._counts(np.array(tokens)))

    def _counts(self, tokens: npt.NDArray[np.int_]) -> Int64Array:
        """How many of so many tokens are chosen."""
        counts: Int64Array = np.maximum(1, np.rint(self.share * tokens)).astype(np.int64)
        return counts


class MaskedSampler(Sampler):
    """The windows of another sampler, with tokens hidden anew in each step.

    Args:
        windows: Its batches have no documents of their own.
        masking: What is hidden.
        seed: Of what is chosen.
    """

    def __init__(self, windows: RowSampler, masking: Masking, *, seed: int) -> None:
        super().__init__(steps_per_epoch=windows.steps_per_epoch)
        self._windows, self._masking, self._seed = windows, masking, seed

    @property
    def most_rows(self) -> int:
        """Those of the windows."""
        return self._windows.most_rows

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> MaskedBatch:
        """What `rank` of `world_size` processes reads at step `step`.

        Raises:
            ConfigError: There are more processes than rows.
        """
        batch = self._windows.batch(step, rank=rank, world_size=world_size)
        assert isinstance(batch, Batch)
        rows = range(rank, self._windows.batch_size, world_size)
        return self._masking.hide(batch, rows, seed=self._seed, step=step)


def masked_batches(
    datasets: Sequence[TokenDataset], masking: Masking, *, seq_len: int, batch_size: int
) -> Iterator[MaskedBatch]:
    """All of some datasets in order, with tokens hidden that are the same each time.

    They depend neither on `batch_size` nor on the run's seed.

    Raises:
        DataError: A dataset with windows of its own has none.
        ConfigError: Its windows are longer than `seq_len`.
    """
    first = 0
    for dataset in datasets:
        for batch in sequential_batches(dataset, seq_len=seq_len, batch_size=batch_size):
            rows = range(first, first + len(batch.inputs))
            yield masking.hide(batch, rows, seed=0, step=0)
            first = rows.stop


def _draws(rows: Sequence[int], length: int, *, seed: int, step: int) -> UInt64Array:
    """Random words for each token of each row, (B, length, k), whatever else is drawn."""
    start = random_words(seed, step, _OF_MASKS, count=1)
    starts_B1 = mix(start + np.array(rows, dtype=np.uint64) * _GAMMA)[:, np.newaxis]
    places = np.arange(1, length * _DRAWS + 1, dtype=np.uint64)
    return mix(starts_B1 + places * _GAMMA).reshape(len(rows), length, _DRAWS)
