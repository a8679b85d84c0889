"""The shipped pairs: numbers and dates in words and in digits, from a grammar of our own.

    five thousand, two hundred six             ->  5206
    March the third, nineteen eighty four      ->  1984-03-03
    5206                                       ->  five thousand two hundred and six
    1984-03-03                                 ->  the third of March, nineteen eighty-four

There are several ways to say a thing in words. Sources use all of them, but a target is always the
canonical one, so that it is either right or not.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gptlab.data.toy.files import write_missing
from gptlab.data.toy.pairs.dates import ORDERS, date_words
from gptlab.data.toy.pairs.numbers import number_words
from gptlab.data.toy.pairs.style import CANONICAL, Style
from gptlab.errors import ConfigError

TRAIN_PAIRS = 20_000
TEST_PAIRS = 1_000
TRAIN_SEED = 1
TEST_SEED = 2

# How often a number has one digit, two, and so on: a short one has less to be learned from, but
# there are so few that each of them comes several times.
_DIGITS = (1, 1, 2, 2, 2) + (3,) * 7 + (4, 5, 6) * 12
_FIRST_DAY, _LAST_DAY = date(1000, 1, 1), date(2999, 12, 31)


class ToyPair(NamedTuple):
    """A text, and what it is the other way of saying."""

    source: str
    target: str


def generate_pairs(count: int, *, seed: int) -> list[ToyPair]:
    """Draw pairs: two numbers for each date, into words as often as out of them.

    The same seed gives the same pairs on every platform and Python version, and a smaller count
    gives the beginning of a larger one.

    Raises:
        ConfigError: The count is negative.
    """
    if count < 0:
        raise ConfigError(f"count of pairs is {count}; give 0 or more")
    return list(islice(_pairs(seed), count))


def held_out_pairs(count: int, *, seed: int, train: Sequence[ToyPair]) -> list[ToyPair]:
    """Draw pairs that differ, none of whose sources or targets `train` has.

    As a target is the only one of its meaning, none of the meanings is in `train` in that
    direction either, in whatever words.
    """
    sources, targets = {pair.source for pair in train}, {pair.target for pair in train}
    kept: list[ToyPair] = []
    for pair in _pairs(seed):
        if len(kept) == count:
            break
        if pair.source not in sources and pair.target not in targets:
            kept.append(pair)
            sources.add(pair.source)
            targets.add(pair.target)
    return kept


def pair_text(pairs: Iterable[ToyPair]) -> str:
    """A table of pairs: its columns' names, then a source, a tab and a target on each line."""
    return "".join(f"{source}\t{target}\n" for source, target in (("source", "target"), *pairs))


def write_toy_pairs(folder: Path) -> tuple[Path, Path]:
    """Write `tiny_pairs_train.tsv` and `tiny_pairs_test.tsv` into a folder, made where missing.

    The bytes are always the same, and a reader never sees half of a file; one that exists is left
    as it is. Returns the two paths.

    Raises:
        DataError: A file can't be written.
    """
    train = generate_pairs(TRAIN_PAIRS, seed=TRAIN_SEED)
    test = held_out_pairs(TEST_PAIRS, seed=TEST_SEED, train=train)
    contents = {"tiny_pairs_train.tsv": train, "tiny_pairs_test.tsv": test}
    paths = write_missing(
        folder, {name: pair_text(part).encode("ascii") for name, part in contents.items()}
    )
    return paths[0], paths[1]


def _pairs(seed: int) -> Iterator[ToyPair]:
    """An endless row, calling nothing of a generator but `random()`, which is the same anywhere."""
    rng = random.Random(seed)
    while True:
        # Dates are learned from far fewer pairs: each part of one always stands in its place.
        is_date, to_words = _chance(rng, 1 / 3), _chance(rng, 1 / 2)
        style = CANONICAL if to_words else _style(rng)
        if is_date:
            day = _FIRST_DAY + timedelta(_below(rng, (_LAST_DAY - _FIRST_DAY).days + 1))
            order = ORDERS[0 if to_words else _below(rng, len(ORDERS))]
            words, digits = date_words(day, style, order), day.isoformat()
        else:
            number = _number(rng)
            words, digits = number_words(number, style), str(number)
        yield ToyPair(digits, words) if to_words else ToyPair(words, digits)


def _style(rng: random.Random) -> Style:
    return replace(
        CANONICAL,
        hyphens=_chance(rng, 2 / 3),
        ands=_chance(rng, 2 / 3),
        comma=_chance(rng, 1 / 3),
        article=_chance(rng, 1 / 3),
    )


def _number(rng: random.Random) -> int:
    """One below a million. A quarter of its digits are 0, as these are what words leave out."""
    count = _DIGITS[_below(rng, len(_DIGITS))]
    if count == 1:
        return _below(rng, 10)
    number = 1 + _below(rng, 9)
    for _ in range(count - 1):
        number = 10 * number + (0 if _chance(rng, 1 / 4) else 1 + _below(rng, 9))
    return number


def _chance(rng: random.Random, probability: float) -> bool:
    return rng.random() < probability


def _below(rng: random.Random, count: int) -> int:
    return int(rng.random() * count)
