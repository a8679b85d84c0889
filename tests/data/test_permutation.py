"""A computed order is a permutation, and looks like one that was shuffled."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.data.permutation import _ROUNDS, permuted, random_words
from gptlab.numbers import mix

MASK = (1 << 64) - 1


def whole(n: int, *, seed: int = 0, epoch: int = 0) -> list[int]:
    return permuted(np.arange(n), n, seed=seed, epoch=epoch).tolist()


def slow_mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def slow_permuted(place: int, n: int, *, seed: int, epoch: int) -> int:
    """One place at a time, in integers that never overflow."""
    keys = random_words(seed, epoch, count=_ROUNDS).tolist()
    a = next(a for a in (math.isqrt(n), math.isqrt(n) + 1) if a * a >= n)
    b = (n + a - 1) // a
    while True:
        right, left = divmod(place, a)
        for number, key in enumerate(keys):
            if number % 2 == 0:
                left = (left + (slow_mix((right + key) & MASK) // 2)) % a
            else:
                right = (right + (slow_mix((left + key) & MASK) // 2)) % b
        place = left + right * a
        if place < n:
            return place


def chi_square(counts: list[int], total: int) -> float:
    expected = total / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 400), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 2**40))
def test_it_is_a_bijection(n, seed, epoch):
    assert sorted(whole(n, seed=seed, epoch=epoch)) == list(range(n))


@pytest.mark.parametrize("n", [1 << 16, 99_991, 100_489])
def test_it_is_a_bijection_of_many(n):
    assert (np.sort(permuted(np.arange(n), n, seed=3, epoch=1)) == np.arange(n)).all()


@settings(max_examples=200, deadline=None)
@example(n=1, seed=0, epoch=0, draws=[0.0])
@example(n=1 << 62, seed=0, epoch=0, draws=[0.0, 0.5, 1.0])
@example(n=(1 << 40) + 1, seed=0, epoch=0, draws=[0.0, 0.5, 1.0])
@given(
    n=st.one_of(st.integers(1, 1000), st.integers(1, 1 << 62)),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2**40),
    draws=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_any_places_equal_the_slow_network(n, seed, epoch, draws):
    places = [min(int(draw * n), n - 1) for draw in draws]
    expected = [slow_permuted(place, n, seed=seed, epoch=epoch) for place in places]
    result = permuted(places, n, seed=seed, epoch=epoch)
    assert result.dtype == np.int64
    assert result.tolist() == expected


def test_the_mixing_is_splitmix64():
    steps = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    # The first numbers of the reference generator from the seed 0.
    assert mix(steps).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_the_shape_is_kept():
    places = np.arange(24).reshape(2, 3, 4)
    result = permuted(places, 24, seed=1, epoch=2)
    assert result.shape == places.shape
    assert result.flatten().tolist() == whole(24, seed=1, epoch=2)
    assert permuted(np.array([], dtype=np.int64), 24, seed=1, epoch=2).shape == (0,)
    assert (places.flatten() == np.arange(24)).all()


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(whole(30, seed=seed, epoch=epoch)) for seed in range(9) for epoch in range(9)}
    assert len(orders) == 81


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_orders_of_a_handful_are_equally_frequent(n):
    trials = 2400
    found = Counter(tuple(whole(n, seed=seed)) for seed in range(trials))
    counts = [found[order] for order in itertools.permutations(range(n))]
    degrees = len(counts) - 1
    assert chi_square(counts, trials) < degrees + 4 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("place", [0, 1, 49])
def test_each_place_holds_each_number_equally_often(place):
    trials = 2500
    found = Counter(permuted([place], 50, seed=seed, epoch=1)[0] for seed in range(trials))
    assert chi_square([found[number] for number in range(50)], trials) < 49 + 4 * math.sqrt(98)


@pytest.mark.parametrize("n", [10_000, 99_991])
def test_numbers_move_far_and_leave_their_neighbours(n):
    order = permuted(np.arange(n), n, seed=0, epoch=0)
    displacement = np.abs(order - np.arange(n)).mean() / n
    # A third on average; the mean of n displacements deviates by 0.24 / sqrt(n) or so.
    assert displacement == pytest.approx(1 / 3, abs=4 * 0.24 / math.sqrt(n))
    # Two neighbours in the whole order on average, as good as Poisson.
    assert (np.abs(np.diff(order)) == 1).sum() <= 9
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / math.sqrt(n)
    assert (order == np.arange(n)).sum() <= 7
