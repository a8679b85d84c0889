"""Batches of several datasets, mixed by weights.

    weights   a 1/2, b 1/4, c 1/4
    places    0  1  2  3  4  5  6  7  ...          of the endless row of windows
    datasets  c  a  b  a  c  a  b  a  ...
    windows   0  0  0  1  1  2  1  3  ...          of each dataset's own endless row

Which window stands at a place is arithmetic on the place alone, so no step depends on the steps
before it, and each dataset's windows come in the same order as without the others.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from gptlab.data.batches import Batch
from gptlab.data.sampler import RowSampler, WindowSampler
from gptlab.errors import ConfigError


class MixedSampler(RowSampler):
    """Rows dealt out to several datasets, each of which goes through epochs of its own.

    Among any first rows, the number of a dataset's own is off its share by less than the number of
    datasets. An epoch of the mixture is as many rows as all of them have windows.

    Args:
        parts: A sampler for each dataset, alike but for their datasets and seeds, and its weight,
            above 0; the weights need not add up to 1.

    Raises:
        ConfigError: A weight is not above 0, or the samplers do not fit each other.
    """

    def __init__(self, parts: Sequence[tuple[WindowSampler, Fraction]]) -> None:
        samplers = tuple(sampler for sampler, _ in parts)
        for sampler, weight in parts:
            if weight <= 0:
                raise ConfigError(
                    f"the weight of {sampler.dataset.folder} is {weight}; write one above 0, or "
                    "leave it out"
                )
        _require_alike(samplers)
        super().__init__(
            num_windows=sum(sampler.num_windows for sampler in samplers),
            batch_size=samplers[0].batch_size,
        )
        self._samplers = samplers
        self._shares = _shares_of_rest([Fraction(weight) for _, weight in parts])

    def rows(self, places: Sequence[int]) -> Batch:
        """The windows at `places` of the endless row, at least one, as rows in that order."""
        turns = [self._turn(place) for place in places]
        parts = []
        for number, sampler in enumerate(self._samplers):
            rows = [row for row, turn in enumerate(turns) if turn[0] == number]
            if rows:
                parts.append((sampler, rows, sampler.spans([turns[row][1] for row in rows])))
        width = max(sampler.width(spans) for sampler, _, spans in parts)
        order = np.argsort(np.concatenate([rows for _, rows, _ in parts]))
        return _merge([sampler.read(spans, width=width) for sampler, _, spans in parts], order)

    def _turn(self, place: int) -> tuple[int, int]:
        """The number of the dataset that `place` is dealt to, and the place in that one's row."""
        for number, share in enumerate(self._shares):
            taken = place * share.numerator // share.denominator
            if (place + 1) * share.numerator // share.denominator > taken:
                return number, taken
            place -= taken
        raise AssertionError("the last share is 1")


def _shares_of_rest(weights: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """The share that each takes of what those before it leave."""
    return tuple(weight / sum(weights[number:]) for number, weight in enumerate(weights))


def _require_alike(samplers: Sequence[WindowSampler]) -> None:
    first = samplers[0]
    for sampler in samplers:
        if sampler.length != first.length:
            raise ConfigError(
                f"the windows of {first.dataset.folder} have {first.length} tokens, but those of "
                f"{sampler.dataset.folder} have {sampler.length}; prepare them alike to mix them"
            )
        for name in ("batch_size", "document_mask", "reset_positions"):
            if getattr(sampler, name) != getattr(first, name):
                raise ConfigError(
                    f"{name} is {getattr(first, name)} for {first.dataset.folder}, but "
                    f"{getattr(sampler, name)} for {sampler.dataset.folder}; make them the same"
                )


def _merge(batches: Sequence[Batch], order: npt.NDArray[np.intp]) -> Batch:
    """The rows of `batches`, one after another, put into `order`."""
    if any(batch.weights is not None for batch in batches):
        batches = [
            batch
            if batch.weights is not None
            else batch._replace(weights=np.ones(batch.inputs.shape, dtype=np.float32))
            for batch in batches
        ]
    fields: Iterable[tuple[npt.NDArray[np.generic], ...]] = zip(*batches, strict=True)
    return Batch(*(None if field[0] is None else np.concatenate(field)[order] for field in fields))
