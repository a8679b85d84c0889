"""What every tokenizer does alike: checks ids, and goes between bytes and text."""

from collections.abc import Iterable
from operator import index

from gptlab.errors import TokenizerError


def checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """`ids` as plain ints.

    Raises:
        TokenizerError: An id is no integer, or not in 0 to `vocab_size` - 1.
    """
    checked = []
    for token in ids:
        try:
            checked.append(index(token))
        except TypeError as error:
            raise unknown_id(token, vocab_size) from error
    if checked and not 0 <= min(checked) <= max(checked) < vocab_size:
        raise unknown_id(next(i for i in checked if not 0 <= i < vocab_size), vocab_size)
    return checked


def unknown_id(token: object, vocab_size: int) -> TokenizerError:
    """The error for an id that the vocabulary does not have."""
    return TokenizerError(
        f"id {token!r} is not in the vocabulary: ids are integers from 0 to {vocab_size - 1} "
        f"(vocab_size={vocab_size}); were they made by another tokenizer?"
    )


def bytes_to_text(data: bytes) -> str:
    """`data` as text: lone surrogates come back, and what is no UTF-8 becomes U+FFFD."""
    for errors in ("strict", "surrogatepass"):
        try:
            return data.decode("utf-8", errors)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace")


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate, for libraries that can't take them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
