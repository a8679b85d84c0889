"""What is particular to the texts of an encoder's run: a mask token, and no conversations."""

from collections.abc import Iterable

from gptlab.data import TokenDataset
from gptlab.errors import ConfigError
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.tokenizer.chat import ChatTemplate
from gptlab.tokenizer.mask import with_mask
from gptlab.training.sources import Data


def require_plain_texts(templates: Iterable[ChatTemplate | None]) -> None:
    """Refuse conversations where tokens are to be hidden.

    Args:
        templates: Of all that is read; None of plain texts.

    Raises:
        ConfigError: That is what there is to read.
    """
    if any(templates):
        raise ConfigError(
            "the data are prepared conversations, of which a GPT learns the replies; give an "
            "encoder plain texts"
        )


def readable(tokenizer: Tokenizer, before: Tokenizer, read: Iterable[Data]) -> frozenset[str]:
    """Fingerprints of the tokenizers that made what `tokenizer` reads: those but for its mask.

    Args:
        tokenizer: With a mask token.
        before: What it was before it had one, where that was now.
        read: What the run reads, whose prepared parts may have their tokenizer with them.
    """
    known = {tokenizer.fingerprint(), before.fingerprint()}
    folders = {data.tokenizer for data in read if isinstance(data, TokenDataset)} - {None}
    for folder in folders:
        saved = load_tokenizer(str(folder))
        if with_mask(saved).fingerprint() in known:
            known.add(saved.fingerprint())
    return frozenset(known)


def require_made_by(
    dataset: TokenDataset, tokenizer: Tokenizer, made_by: frozenset[str]
) -> TokenDataset:
    """`dataset`, which a tokenizer of the fingerprints `made_by` must have made.

    Raises:
        DataError: Another one than `tokenizer` made it.
    """
    found = dataset.manifest["tokenizer"]
    expected = found if found in made_by else tokenizer.fingerprint()
    return TokenDataset(dataset.folder, tokenizer=expected)
