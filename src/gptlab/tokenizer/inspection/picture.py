"""Tokens made visible: text with a border around each, on lines of a fixed width."""

from collections.abc import Sequence
from itertools import accumulate, groupby
from unicodedata import category, east_asian_width

from gptlab.tokenizer.base import Tokenizer

BORDER = "│"
_SIGNS = str.maketrans({"\n": "⏎", "\t": "⇥"})


def picture(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of `ids` on one line, with a border around each token: │The│ cat│⏎│.

    A newline shows as ⏎ and a tab as ⇥. What can't be shown is in hex, as <C3>: bytes that are
    only a part of a character, control and other invisible characters, and a border character
    that is the text's own. A token whose text is empty or can't be known alone is <id 7>.

    Raises:
        TokenizerError: An id is outside the vocabulary.
    """
    return "".join([BORDER, *(token_picture(tokenizer, token) + BORDER for token in ids)])


def token_picture(tokenizer: Tokenizer, token: int) -> str:
    """One token as `picture` shows it, without borders."""
    data = bytes_of(tokenizer, token)
    if not data:
        return f"<id {token}>"
    # What is no UTF-8 becomes lone surrogates here, which are as invisible as control characters.
    text = data.decode("utf-8", "surrogateescape").translate(_SIGNS)
    return "".join(
        "".join(run) if visible else _in_hex("".join(run))
        for visible, run in groupby(text, key=_is_visible)
    )


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes | None:
    """The UTF-8 bytes that a token adds to a text; None where they can't be known.

    Raises:
        TokenizerError: The id is outside the vocabulary.
    """
    token_bytes = getattr(tokenizer, "token_bytes", None)
    if token_bytes is not None:
        return bytes(token_bytes(token))
    # At the beginning of a text, SentencePiece drops the space that a token begins with.
    before = tokenizer.encode("a")
    text = tokenizer.decode([*before, token])[len(tokenizer.decode(before)) :]
    return None if "\ufffd" in text else text.encode("utf-8", "surrogatepass")


def wrapped(shown: str, width: int) -> list[str]:
    """A picture in lines of at most `width` columns of a terminal, with whole tokens in each."""
    lines = [BORDER]
    for token in shown.split(BORDER)[1:-1]:
        framed = fitted(token, width - 2) + BORDER
        if columns(lines[-1] + framed) > width:
            lines.append(BORDER)
        lines[-1] += framed
    return lines


def fitted(text: str, width: int) -> str:
    """`text`, or as much of it as fits into `width` columns of a terminal with … behind it."""
    if columns(text) <= width:
        return text
    ends = accumulate(map(_character_columns, text))
    return text[: sum(end < width for end in ends)] + "…"


def columns(text: str) -> int:
    """Columns that `text` takes in a terminal: two for a wide character, none for a mark on one."""
    return sum(map(_character_columns, text))


def _character_columns(character: str) -> int:
    if category(character) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def _is_visible(character: str) -> bool:
    return character.isprintable() and character != BORDER


def _in_hex(text: str) -> str:
    return f"<{text.encode('utf-8', 'surrogateescape').hex(' ').upper()}>"
