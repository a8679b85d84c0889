"""Which special tokens count in a text, and which must not be there."""

from collections.abc import Collection

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import SpecialNames, Tokenizer


def allowed_names(
    text: str, special: Collection[str], *, allowed: SpecialNames, disallowed: SpecialNames
) -> frozenset[str]:
    """The special tokens that count in `text`; all others are plain text.

    Args:
        text: What is to be encoded.
        special: All special tokens of the vocabulary.
        allowed: Those that count.
        disallowed: What must not be in `text`; "all" means the special tokens that are not allowed.

    Raises:
        TokenizerError: `text` has a disallowed one, or an allowed one does not exist.
    """
    names = frozenset(special)
    chosen = _chosen(allowed, "allowed_special", names)
    if unknown := chosen - names:
        raise TokenizerError(
            f"allowed_special has {min(unknown)!r}, which is no special token here: "
            f"choose from {', '.join(special) or 'none, for there are none'}"
        )
    refused = _chosen(disallowed, "disallowed_special", names - chosen)
    if found := [name for name in refused if name in text]:
        raise TokenizerError(
            f"the text has {min(found, key=text.index)!r}, which disallowed_special forbids: "
            f"take it out, or leave it out of disallowed_special"
        )
    return chosen


def _chosen(names: SpecialNames, option: str, all_names: frozenset[str]) -> frozenset[str]:
    if names == "all":
        return all_names
    if isinstance(names, str):
        raise TokenizerError(
            f'{option} is {names!r}: give a collection, {option}={{{names!r}}}, or "all"'
        )
    return frozenset(names)


def silent_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that no text is encoded to unless special tokens are allowed in it."""
    special: dict[str, int] = getattr(tokenizer, "special_tokens", {})
    return frozenset(special.values()) - {tokenizer.unk_id}
