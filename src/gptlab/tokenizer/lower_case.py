"""Tokenizers for text in lower case."""

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer


def lower_cased(tokenizer: Tokenizer) -> BPETokenizer:
    """`tokenizer`, but for text that it makes lower case first; see `BPETokenizer.with_lower_case`.

    Raises:
        TokenizerError: It is no byte-level BPE that gptlab runs itself.
    """
    if not isinstance(tokenizer, BPETokenizer):
        raise TokenizerError(
            f"a {type(tokenizer).__name__} can't make text lower case; give a byte-level BPE, as "
            f"gptlab-tokenize --train makes it, or lower the texts themselves"
        )
    return tokenizer.with_lower_case()
