"""A model and its tokenizer, extended together."""

from collections.abc import Sequence

from gptlab.errors import ConfigError, TokenizerError
from gptlab.model import grow_vocabulary
from gptlab.model.stack import AnyStack
from gptlab.tokenizer import BPETokenizer, Tokenizer


def add_special_tokens(
    model: AnyStack,
    tokenizer: Tokenizer,
    tokens: Sequence[str],
    *,
    seed: int = 0,
    in_text: bool = False,
) -> tuple[AnyStack, BPETokenizer]:
    """A model and a tokenizer that know further special tokens; those given stay as they are.

    The new ids come after the tokenizer's. Where the model's vocabulary is larger than the
    tokenizer's, they take the rows that are there, and the model grows only by what is missing,
    as `grow_vocabulary` says.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer, one of gptlab's own.
        tokens: Texts of the new tokens, as in ["<USER>", "<ASSISTANT>"].
        seed: Seed of the model's new rows.
        in_text: Whether the tokens are looked for in every text, and need not be allowed.

    Raises:
        TokenizerError: The tokenizer is not gptlab's own BPE, or can't take one of the tokens.
        ConfigError: The tokenizer has more ids than the model.
    """
    if not isinstance(tokenizer, BPETokenizer):
        raise TokenizerError(
            f"a {type(tokenizer).__name__} can't be extended; only gptlab's own BPE can, as "
            "gptlab-tokenize --train makes it"
        )
    vocab_size = model.config.vocab_size
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but the model {vocab_size}; give the "
            "tokenizer that the model was trained with"
        )
    extended = tokenizer.with_special_tokens(tokens, in_text=in_text)
    return grow_vocabulary(model, max(vocab_size, extended.vocab_size), seed=seed), extended
