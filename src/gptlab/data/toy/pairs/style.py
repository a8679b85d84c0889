"""What different people write in the same words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How numbers are spelled; the default is the canonical way, the only one of targets."""

    hyphens: bool = True
    """forty-two, or forty two."""
    ands: bool = True
    """two hundred and six, or two hundred six."""
    comma: bool = False
    """five thousand, two hundred, or five thousand two hundred."""
    article: bool = False
    """a hundred, or one hundred."""


CANONICAL = Style()
