"""The grammar of a toy story, assembled from its tables."""

from collections.abc import Mapping

from gptlab.data.toy import tables
from gptlab.data.toy.nodes import Bind, Match, Node, Rows
from gptlab.data.toy.rules import read_rows, read_rules, rows_without, template


def _story() -> Node:
    """Assemble the grammar of one story from its end, since a binding encloses what follows it."""
    words = read_rules(tables.WORDS, {})
    alone = {**words, "solution": _by_plot(tables.SOLUTIONS, {**words, "By": words["Who"]})}
    team = {**words, "solution": _by_plot(tables.SOLUTIONS, {**words, "By": words["Team"]})}
    parts = read_rules(tables.MOOD, words)
    parts |= read_rules(tables.TROUBLE, {**words, "problem": _by_plot(tables.PROBLEMS, words)})
    parts |= read_rules(tables.ALONE, alone)
    parts["together"] = _with_friend(read_rules(tables.TOGETHER, team))
    return _opening(_outing(read_rules(tables.BODY, parts)["body"], words))


def _by_plot(source: str, words: Mapping[str, Node]) -> Match:
    """Read rules that have one line for each plot, and let the plot choose among these."""
    rules = read_rules(source, words)
    return Match("plot", tuple((plot, rules[plot]) for plot in ("lost", "wet", "stuck", "broken")))


def _with_friend(rules: Mapping[str, Node]) -> Node:
    """Introduce a friend, with neither the hero's name nor animal, then go on to the meeting."""
    kind = _differing("kind", read_rows("friend_kind", tables.KINDS), rules["meeting"])
    trait = read_rules(f"trait = {tables.TRAITS}", {})
    named = template("{friend} the {trait} {kind_and_rest}", {**trait, "kind_and_rest": kind})
    people = read_rows("friend friend_she friend_She friend_her", tables.PEOPLE)
    return template(
        "{soon}, {friend_and_rest}", {**rules, "friend_and_rest": _differing("hero", people, named)}
    )


def _differing(key: str, rows: Rows, body: Node) -> Match:
    """Draw one of the rows other than the one whose first word is remembered under the key."""
    own_words = [forms[0][1] for _, forms in rows]
    return Match(key, tuple((own, Bind(rows_without(own, rows), body)) for own in own_words))


def _outing(rest: Node, words: Mapping[str, Node]) -> Node:
    """Say where the hero goes and with what, then go on with a plot that suits the thing."""
    plots = tuple((sort, Bind(read_rows("plot", plots), rest)) for sort, plots in tables.PLOTS)
    thing = template("{thing}.{rest}", {"rest": Match("sort", plots)})
    thing = template(
        "{colour} {rest}", {"rest": Bind(read_rows("thing sort", tables.THINGS), thing)}
    )
    coloured = Bind(read_rows("colour", tables.COLOURS), thing)
    return read_rules(tables.OUTING, {**words, "thing_and_rest": coloured})["outing"]


def _opening(rest: Node) -> Node:
    """Introduce the hero, the name first or last, then go on."""
    people = read_rows("hero she She her", tables.PEOPLE)
    kinds = read_rows("kind", tables.KINDS)
    traits = read_rows("trait", tables.TRAITS)
    first = Bind(kinds, template("{kind}{rest}", {"rest": rest}))
    first = Bind(traits, template("{trait} {rest}", {"rest": first}))
    first = Bind(people, template("{hero} the {rest}", {"rest": first}))
    last = Bind(people, template("{hero}{rest}", {"rest": rest}))
    last = Bind(kinds, template("{kind} named {rest}", {"rest": last}))
    last = Bind(traits, template("a {trait} {rest}", {"rest": last}))
    return read_rules(tables.OPENING, {"name_first": first, "name_last": last})["opening"]


STORY = _story()
"""The grammar of one story, without its separator."""
