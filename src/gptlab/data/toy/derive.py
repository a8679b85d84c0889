"""Texts from a grammar and back: draw one, or find how it can be derived and how likely it is."""

import math
import random
from collections.abc import Iterator, Mapping
from typing import TypeVar

from gptlab.data.toy.nodes import Bind, Choice, Literal, Match, Node, Sequence, Use

_T = TypeVar("_T")


def generate(node: Node, rng: random.Random, memory: Mapping[str, str]) -> str:
    """Draw one text, calling nothing of `rng` but `random()`, once per random choice."""
    match node:
        case Literal(text):
            return text
        case Use(key):
            return memory[key]
        case Sequence(parts):
            return "".join(generate(part, rng, memory) for part in parts)
        case Choice(options):
            return generate(_draw(options, rng), rng, memory)
        case Bind(rows, body):
            return generate(body, rng, {**memory, **dict(_draw(rows, rng))})
        case Match():
            return generate(node.case(memory), rng, memory)
    raise TypeError(f"not a grammar node: {node!r}")


def _draw(weighted: tuple[tuple[float, _T], ...], rng: random.Random) -> _T:
    mark = rng.random()
    for probability, value in weighted[:-1]:
        mark -= probability
        if mark < 0:
            return value
    # The last one takes what is left, so that rounding never leaves the mark beyond the end.
    return weighted[-1][1]


def derivations(
    node: Node, text: str, start: int, memory: Mapping[str, str]
) -> Iterator[tuple[int, float]]:
    """Yield (end, log probability in nats) of each way to derive a stretch of text from `start`."""
    match node:
        case Literal() | Use():
            part = node.text if isinstance(node, Literal) else memory[node.key]
            if text.startswith(part, start):
                yield start + len(part), 0.0
        case Sequence(parts):
            yield from _derive_parts(parts, text, start, memory)
        case Choice(options):
            for probability, option in options:
                for end, rest in derivations(option, text, start, memory):
                    yield end, math.log(probability) + rest
        case Bind(rows, body):
            for probability, forms in rows:
                for end, rest in derivations(body, text, start, {**memory, **dict(forms)}):
                    yield end, math.log(probability) + rest
        case Match():
            yield from derivations(node.case(memory), text, start, memory)


def _derive_parts(
    parts: tuple[Node, ...], text: str, start: int, memory: Mapping[str, str]
) -> Iterator[tuple[int, float]]:
    if not parts:
        yield start, 0.0
        return
    for middle, first in derivations(parts[0], text, start, memory):
        for end, rest in _derive_parts(parts[1:], text, middle, memory):
            yield end, first + rest


def log_probability(root: Node, text: str) -> float | None:
    """Return the log probability of a whole text in nats, over all derivations, else None."""
    found = [log_p for end, log_p in derivations(root, text, 0, {}) if end == len(text)]
    if not found:
        return None
    largest = max(found)
    return largest + math.log(math.fsum(math.exp(log_p - largest) for log_p in found))
