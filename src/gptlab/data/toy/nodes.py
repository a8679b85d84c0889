"""A probabilistic grammar as data.

A grammar is a tree (sharing subtrees is fine) of six kinds of node. Random are only `Choice` and
`Bind`; a `Bind` also remembers what it drew, for every `Use` and `Match` in its body:

    Literal   a fixed text                     Choice   one of several nodes, by probability
    Use       the text a Bind remembered       Bind     draw a row of texts, then run the body
    Sequence  its parts, in order              Match    the node for a remembered text
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Forms = tuple[tuple[str, str], ...]
"""What one row of a `Bind` remembers: (key, text) pairs."""

Rows = tuple[tuple[float, Forms], ...]
"""The rows of a `Bind`, each with its probability."""

_NO_KEYS: frozenset[str] = frozenset()


class Node:
    """One node of a grammar; nodes compare by identity, so that they are cheap to look up."""

    @cached_property
    def consults(self) -> frozenset[str]:
        """The remembered keys on which the probabilities inside this node depend."""
        return _NO_KEYS


@dataclass(frozen=True, eq=False)
class Literal(Node):
    """A fixed text."""

    text: str


@dataclass(frozen=True, eq=False)
class Use(Node):
    """The text that the nearest enclosing `Bind` of `key` remembered."""

    key: str


@dataclass(frozen=True, eq=False)
class Sequence(Node):
    """The parts in order, each independent of the others given what is remembered."""

    parts: tuple[Node, ...]

    @cached_property
    def consults(self) -> frozenset[str]:
        """The keys that any part consults."""
        return _NO_KEYS.union(*(part.consults for part in self.parts))


@dataclass(frozen=True, eq=False)
class Choice(Node):
    """One of the options, each a (probability, node) pair."""

    options: tuple[tuple[float, Node], ...]

    def __post_init__(self) -> None:
        _check_distribution([p for p, _ in self.options])

    @cached_property
    def consults(self) -> frozenset[str]:
        """The keys that any option consults."""
        return _NO_KEYS.union(*(option.consults for _, option in self.options))


@dataclass(frozen=True, eq=False)
class Bind(Node):
    """A drawn row, each a (probability, forms) pair with the same keys, remembered in the body."""

    rows: Rows
    body: Node

    def __post_init__(self) -> None:
        _check_distribution([p for p, _ in self.rows])
        if len({frozenset(key for key, _ in forms) for _, forms in self.rows}) != 1:
            raise ValueError("the rows of a Bind must all have the same keys")

    @cached_property
    def consults(self) -> frozenset[str]:
        """The keys that the body consults, without those bound here."""
        return self.body.consults.difference(key for key, _ in self.rows[0][1])


@dataclass(frozen=True, eq=False)
class Match(Node):
    """The one of the (text, node) cases whose text is remembered under `key`."""

    key: str
    cases: tuple[tuple[str, Node], ...]

    @cached_property
    def consults(self) -> frozenset[str]:
        """The key itself, and the keys that any case consults."""
        return frozenset({self.key}).union(*(case.consults for _, case in self.cases))

    def case(self, memory: Mapping[str, str]) -> Node:
        """Return the node for what is remembered; raises `KeyError` where no case fits."""
        wanted = memory[self.key]
        for text, node in self.cases:
            if text == wanted:
                return node
        raise KeyError(f"no case for {self.key}={wanted!r}")


def _check_distribution(probabilities: list[float]) -> None:
    if min(probabilities, default=0.0) <= 0 or not math.isclose(math.fsum(probabilities), 1):
        raise ValueError(f"not positive probabilities that add up to 1: {probabilities}")
