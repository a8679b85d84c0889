"""The token that stands where another one is hidden."""

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer

MASK = "<MASK>"
_NAMES = (MASK, "[MASK]", "<mask>")


def mask_name(tokenizer: Tokenizer) -> str | None:
    """The name of the mask token, gptlab's own or that of others; None where there is none."""
    special: dict[str, int] = getattr(tokenizer, "special_tokens", {})
    return next((name for name in _NAMES if name in special), None)


def mask_id(tokenizer: Tokenizer) -> int | None:
    """The id of the mask token; None where there is none."""
    name = mask_name(tokenizer)
    special: dict[str, int] = getattr(tokenizer, "special_tokens", {})
    return None if name is None else special[name]


def with_mask(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer itself, or one with a mask token behind all other ids.

    Raises:
        TokenizerError: It has none, and can't be extended.
    """
    if mask_name(tokenizer) is not None:
        return tokenizer
    if not isinstance(tokenizer, BPETokenizer):
        raise TokenizerError(
            f"masked tokens need a special token such as {MASK}, which this "
            f"{type(tokenizer).__name__} lacks, and it can't be extended; train a tokenizer with "
            "--tokenizer auto, or give a byte-level BPE"
        )
    return tokenizer.with_special_tokens([MASK])


def ordinary_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that stand for some text: all but special ones, and those that stand for nothing."""
    special: dict[str, int] = getattr(tokenizer, "special_tokens", {})
    roles = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    gaps: tuple[int, ...] = getattr(tokenizer, "gaps", ())
    other = {*special.values(), *roles, *gaps}
    return [token_id for token_id in range(tokenizer.vocab_size) if token_id not in other]
