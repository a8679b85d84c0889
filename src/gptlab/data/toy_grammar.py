"""A probabilistic grammar as data, and what one can do with it.

A grammar is a tree (sharing subtrees is fine) of six kinds of node. Random are only `Choice` and
`Bind`; a `Bind` also remembers what it drew, for every `Use` and `Match` in its body:

    Literal   a fixed text                     Choice   one of several nodes, by probability
    Use       the text a Bind remembered       Bind     draw a row of texts, then run the body
    Sequence  its parts, in order              Match    the node for a remembered text

`generate` draws a text, `moments` gives the exact entropy and expected length, `derivations`
parses, and `log_probability` sums over parses. A draw costs its entropy once, where it is made;
looking back at it is free.
"""

import math
import random
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

Forms = tuple[tuple[str, str], ...]
"""What one row of a `Bind` remembers: (key, text) pairs."""

Rows = tuple[tuple[float, Forms], ...]
"""The rows of a `Bind`, each with its probability."""

_NO_KEYS: frozenset[str] = frozenset()
_T = TypeVar("_T")


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


def template(source: str, rules: Mapping[str, Node]) -> Node:
    """Build a sequence from a text with `{name}` fields: a node of `rules`, else a `Use`.

    An underscore in the text stands for a space, for where a bare one could be overlooked.
    """
    parts: list[Node] = []
    for text, name, _, _ in string.Formatter().parse(source):
        if text:
            parts.append(Literal(text.replace("_", " ")))
        if name is not None:
            parts.append(rules[name] if name in rules else Use(name))
    return parts[0] if len(parts) == 1 else Sequence(tuple(parts))


def read_rules(source: str, rules: Mapping[str, Node]) -> dict[str, Node]:
    """Read lines of `name = weight template | weight template ...` on top of given rules.

    Each line becomes a `Choice` that the templates of later lines can name; probabilities are in
    proportion to the weights, and a template may be empty. An indented line goes on with the
    rule above it. Returns the given rules and those read.
    """
    known = dict(rules)
    for line in re.sub(r"\n\s+", " ", source.strip()).splitlines():
        name, _, options = line.partition(" = ")
        known[name] = Choice(
            tuple((weight, template(text, known)) for weight, text in _read_weighted(options))
        )
    return known


def read_rows(keys: str, source: str) -> Rows:
    """Read the rows of a `Bind` from `weight word word ... | ...`, one word for each key."""
    return tuple(
        (weight, tuple(zip(keys.split(), text.split(), strict=True)))
        for weight, text in _read_weighted(source)
    )


def rows_without(word: str, rows: Rows) -> Rows:
    """Return the rows that do not begin with a word, at probabilities that add up to one again."""
    kept = [(p, forms) for p, forms in rows if forms[0][1] != word]
    total = math.fsum(p for p, _ in kept)
    return tuple((p / total, forms) for p, forms in kept)


def _read_weighted(source: str) -> list[tuple[float, str]]:
    pairs = [option.strip().partition(" ") for option in source.split("|")]
    total = sum(int(weight) for weight, _, _ in pairs)
    return [(int(weight) / total, text) for weight, _, text in pairs]


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


@dataclass(frozen=True)
class Moments:
    """Exact expectations over one node's derivations.

    `entropy` is in nats. `characters` counts literal text and the texts bound inside the node;
    `uses` is the expected number of times each key bound further out is used.
    """

    entropy: float = 0.0
    characters: float = 0.0
    uses: Mapping[str, float] = field(default_factory=dict)


def moments(root: Node) -> Moments:
    """Compute a grammar's entropy and expected length by recursion over its nodes.

    The entropy of a node depends on what is remembered only through the keys that it consults,
    and length is a sum over uses, settled where their key is bound. So each node is evaluated
    once for each combination of consulted texts, not of all remembered ones.

    Raises:
        ValueError: A key is used outside of every `Bind` that remembers it.
    """
    known: dict[tuple[Node, frozenset[tuple[str, str]]], Moments] = {}

    def visit(node: Node, memory: Mapping[str, str]) -> Moments:
        seen = frozenset((key, memory[key]) for key in node.consults)
        if (node, seen) not in known:
            known[node, seen] = evaluate(node, dict(seen))
        return known[node, seen]

    def evaluate(node: Node, memory: Mapping[str, str]) -> Moments:
        match node:
            case Literal(text):
                return Moments(characters=len(text))
            case Use(key):
                return Moments(uses={key: 1.0})
            case Sequence(parts):
                return _weighted_sum([(1.0, visit(part, memory)) for part in parts])
            case Choice(options):
                drawn = _weighted_sum([(p, visit(option, memory)) for p, option in options])
                return _plus_entropy(drawn, [p for p, _ in options])
            case Bind(rows, body):
                settled = [
                    (p, _settle(visit(body, {**memory, **dict(forms)}), forms)) for p, forms in rows
                ]
                return _plus_entropy(_weighted_sum(settled), [p for p, _ in rows])
            case Match():
                return visit(node.case(memory), memory)
        raise TypeError(f"not a grammar node: {node!r}")

    whole = visit(root, {})
    if whole.uses:
        raise ValueError(f"used but not bound: {', '.join(sorted(whole.uses))}")
    return whole


def _weighted_sum(terms: list[tuple[float, Moments]]) -> Moments:
    uses: dict[str, float] = {}
    for weight, term in terms:
        for key, count in term.uses.items():
            uses[key] = uses.get(key, 0.0) + weight * count
    return Moments(
        entropy=math.fsum(weight * term.entropy for weight, term in terms),
        characters=math.fsum(weight * term.characters for weight, term in terms),
        uses=uses,
    )


def _plus_entropy(drawn: Moments, probabilities: list[float]) -> Moments:
    own = -math.fsum(p * math.log(p) for p in probabilities)
    return Moments(drawn.entropy + own, drawn.characters, drawn.uses)


def _settle(body: Moments, forms: Forms) -> Moments:
    length = math.fsum(body.uses.get(key, 0.0) * len(text) for key, text in forms)
    bound = {key for key, _ in forms}
    outer = {key: count for key, count in body.uses.items() if key not in bound}
    return Moments(body.entropy, body.characters + length, outer)


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
