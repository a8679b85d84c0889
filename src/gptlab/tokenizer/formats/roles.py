"""Which token pads, begins, ends, or stands for the unknown."""

from collections.abc import Collection, Mapping
from typing import Literal, get_args

Role = Literal["pad", "unk", "bos", "eos"]

ROLES: tuple[Role, ...] = get_args(Role)
_USUAL_NAMES: dict[Role, tuple[str, ...]] = {
    "pad": ("<PAD>", "<pad>", "<|pad|>", "<|padding|>", "[PAD]"),
    "unk": ("<UNK>", "<unk>", "<|unk|>", "[UNK]"),
    "bos": ("<BOS>", "<bos>", "<s>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>"),
    "eos": (
        "<EOS>",
        "<eos>",
        "</s>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<｜end▁of▁sentence｜>",
    ),
}


def role_tokens(
    named: Mapping[Role, str | None], tokens: Collection[str]
) -> dict[Role, str | None]:
    """The token that plays each role; None where there is none.

    Args:
        named: The token for a role, where a configuration names one, or None on purpose; roles
            that are not here go to the first token of a usual name.
        tokens: All that the vocabulary has.
    """
    candidates = {role: [named[role]] if role in named else _USUAL_NAMES[role] for role in ROLES}
    return {
        role: next((name for name in candidates[role] if name in tokens), None) for role in ROLES
    }
