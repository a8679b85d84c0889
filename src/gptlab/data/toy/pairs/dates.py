"""Dates of the years 1000 to 2999 in words."""

from datetime import date

from gptlab.data.toy.pairs.numbers import number_words, two_digit_words
from gptlab.data.toy.pairs.style import CANONICAL, Style

CANONICAL_ORDER = "the {day} of {month}, {year}"
ORDERS = (
    CANONICAL_ORDER,
    "the {day} of {month} {year}",
    "{month} the {day}, {year}",
    "{month} {day}, {year}",
)

_MONTHS = "January February March April May June July August September October November December"
_IRREGULAR = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    "twenty": "twentieth",
    "thirty": "thirtieth",
}


def date_words(day: date, style: Style = CANONICAL, order: str = CANONICAL_ORDER) -> str:
    """A date as in "the third of March, nineteen eighty-four"."""
    return order.format(
        day=_ordinal(two_digit_words(day.day, style)),
        month=_MONTHS.split()[day.month - 1],
        year=year_words(day.year, style),
    )


def year_words(year: int, style: Style = CANONICAL) -> str:
    """A year from 1000 to 2999 as it is spoken.

    Most are two numbers, as in "nineteen eighty-four" or "twenty fourteen". Others are "nineteen
    hundred", "nineteen oh five", "two thousand" and "two thousand and five".
    """
    hundreds, rest = divmod(year, 100)
    if rest < 10 and hundreds % 10 == 0:
        return number_words(year, style)
    head = two_digit_words(hundreds, style)
    if rest == 0:
        return f"{head} hundred"
    return f"{head} {'oh ' if rest < 10 else ''}{two_digit_words(rest, style)}"


def _ordinal(words: str) -> str:
    start = max(words.rfind("-"), words.rfind(" ")) + 1
    last = words[start:]
    return words[:start] + _IRREGULAR.get(last, f"{last}th")
