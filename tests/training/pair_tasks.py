"""Pairs that are easily learned, for tests."""

import random
from collections.abc import Callable


def words(count: int, *, alphabet: str, lengths: tuple[int, int], seed: int) -> list[str]:
    """Different strings, in random order."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choices(alphabet, k=rng.randint(*lengths)))] = None
    return list(found)


def pair_lines(
    count: int,
    task: Callable[[str], str] = lambda text: text[::-1],
    *,
    alphabet: str = "abcdef",
    lengths: tuple[int, int] = (1, 8),
    seed: int = 0,
) -> str:
    """Lines of a file of pairs: strings, and what `task` makes of them."""
    rows = words(count, alphabet=alphabet, lengths=lengths, seed=seed)
    return "".join(f"{row}\t{task(row)}\n" for row in rows)
