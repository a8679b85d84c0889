"""A grammar's exact entropy and expected length.

A draw costs its entropy once, where it is made; looking back at it is free.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gptlab.data.toy.nodes import Bind, Choice, Forms, Literal, Match, Node, Sequence, Use


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
