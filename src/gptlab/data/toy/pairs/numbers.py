"""Whole numbers below a million in words."""

from gptlab.data.toy.pairs.style import CANONICAL, Style

_BELOW_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_FROM_TWENTY = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES, _TENS = tuple(_BELOW_TWENTY.split()), tuple(_FROM_TWENTY.split())


def number_words(number: int, style: Style = CANONICAL) -> str:
    """A number from 0 to 999,999, as in "three hundred and forty-two thousand and seven"."""
    thousands, rest = divmod(number, 1000)
    words = _below_thousand(rest, style)
    if thousands:
        head = f"{_below_thousand(thousands, style)} thousand"
        words = _joined(head, rest, words, style, between=", " if style.comma else " ")
    if style.article and words.startswith(("one hundred", "one thousand")):
        return f"a{words.removeprefix('one')}"
    return words


def two_digit_words(number: int, style: Style = CANONICAL) -> str:
    """A number from 0 to 99, as in "forty-two"."""
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    if ones == 0:
        return _TENS[tens - 2]
    return f"{_TENS[tens - 2]}{'-' if style.hyphens else ' '}{_ONES[ones]}"


def _below_thousand(number: int, style: Style) -> str:
    hundreds, rest = divmod(number, 100)
    words = two_digit_words(rest, style)
    if hundreds == 0:
        return words
    return _joined(f"{_ONES[hundreds]} hundred", rest, words, style, between=" ")


def _joined(head: str, rest: int, words: str, style: Style, *, between: str) -> str:
    """What follows the hundreds or thousands put behind them: nothing, or after an "and"."""
    if rest == 0:
        return head
    if rest < 100:
        between = " and " if style.ands else " "
    return f"{head}{between}{words}"
