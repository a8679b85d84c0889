"""Orders of range(n) that are computed where they are read, so that none is held in memory.

A place is written as two digits, left + a * right with a * b >= n, and a Feistel network stirs
each digit by a keyed function of the other, which can be undone and so maps no two places to one.
A result outside range(n) is put in again until it falls inside. This is the generalized Feistel
cipher with cycle walking of John Black and Phillip Rogaway, "Ciphers with Arbitrary Finite
Domains" (2002), https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf.
"""

import math

import numpy as np
import numpy.typing as npt

from gptlab.data.shards import Int64Array
from gptlab.numbers import UInt64Array, mix

# With fewer, the orders of a handful of places are not equally frequent.
_ROUNDS = 10


def permuted(places: npt.ArrayLike, n: int, *, seed: int, epoch: int) -> Int64Array:
    """What stands at `places` of a shuffled range(n), int64 of the same shape.

    The order is a pure function of `n`, `seed` and `epoch`. Time and memory depend on the number
    of places and not on `n`, which may be anything up to 2**62.

    Args:
        places: Integers from 0 to n - 1.
        n: Length of the order.
        seed: Of the whole run, not negative.
        epoch: Gives each epoch an order of its own, not negative.
    """
    keys = random_words(seed, epoch, count=_ROUNDS)
    result = np.array(places, dtype=np.uint64)
    flat = result.reshape(-1)
    # Two digits of about the same size, so that a * b exceeds n by less than sqrt(n) + 1.
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    outside = np.arange(flat.size)
    while outside.size:
        stirred = _stir(flat[outside], keys, np.uint64(a), np.uint64(b))
        flat[outside] = stirred
        outside = outside[stirred >= np.uint64(n)]
    return result.astype(np.int64)


def random_words(*key: int, count: int) -> UInt64Array:
    """`count` random words that are a pure function of `key`, (count,) uint64."""
    return np.random.SeedSequence(key).generate_state(count, np.uint64).astype(np.uint64)


def _stir(values: UInt64Array, keys: UInt64Array, a: np.uint64, b: np.uint64) -> UInt64Array:
    left, right = values % a, values // a
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        # Half of the mixed number leaves room for the sum, which must not wrap around.
        left = (left + (mix(right + first) >> np.uint64(1))) % a
        right = (right + (mix(left + second) >> np.uint64(1))) % b
    return left + right * a
