"""Grammars written down as lines of text."""

import math
import re
import string
from collections.abc import Mapping

from gptlab.data.toy.nodes import Choice, Literal, Node, Rows, Sequence, Use


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
