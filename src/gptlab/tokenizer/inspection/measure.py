"""What a tokenizer makes of texts, in numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptlab.errors import TokenizerError
from gptlab.parallel import batched
from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.ids import bytes_to_text
from gptlab.tokenizer.inspection.picture import bytes_of, token_picture

_BATCH_CHARACTERS = 1_000_000
_LISTED = 10


@dataclass(frozen=True)
class TokenCount:
    """A token, its text as `picture` shows it, and how often it occurs."""

    id: int
    text: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a tokenizer makes of some texts; bytes are those of UTF-8.

    Attributes:
        vocab_size: Ids of the tokenizer.
        tokens: Tokens of all texts.
        bytes: Bytes of all texts.
        characters: Characters of all texts.
        used: Different ids that occur.
        dead_ids: Tokens that never occur, special ones apart.
        longest: The ten tokens of most bytes that occur; among equals the more frequent first.
        most_frequent: The ten tokens that occur most often.
    """

    vocab_size: int
    tokens: int
    bytes: int
    characters: int
    used: int
    dead_ids: tuple[int, ...]
    longest: tuple[TokenCount, ...]
    most_frequent: tuple[TokenCount, ...]

    @property
    def tokens_per_byte(self) -> float:
        """Tokens per byte of text; 0 without text."""
        return self.tokens / max(self.bytes, 1)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token; 0 without text."""
        return self.bytes / max(self.tokens, 1)

    @property
    def share_used(self) -> float:
        """Share of the vocabulary that occurs, from 0 to 1."""
        return self.used / self.vocab_size

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON has it, with the number of dead tokens in place of their ids."""
        values = asdict(self)
        del values["dead_ids"]
        return {
            **values,
            "dead_tokens": len(self.dead_ids),
            "tokens_per_byte": self.tokens_per_byte,
            "bytes_per_token": self.bytes_per_token,
            "share_used": self.share_used,
        }


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> Measurement:
    """Measure one tokenizer, as `measure_all` does several."""
    return measure_all({"": tokenizer}, texts)[""]


def measure_all(named: Mapping[str, Tokenizer], texts: Iterable[str]) -> dict[str, Measurement]:
    """Measure each tokenizer on the same texts, in one pass over them.

    Args:
        named: What to measure, by name.
        texts: Never held together; a lone string counts as a list of one. What looks like a
            special token is plain text.

    Raises:
        TokenizerError: A tokenizer can't take one of the texts.
    """
    counts = {name: np.zeros(tokenizer.vocab_size, np.int64) for name, tokenizer in named.items()}
    size = characters = 0
    texts = [texts] if isinstance(texts, str) else texts
    for batch in batched(texts, _BATCH_CHARACTERS, length=len):
        size += sum(len(text.encode("utf-8", "surrogatepass")) for text in batch)
        characters += sum(map(len, batch))
        for name, tokenizer in named.items():
            ids = np.fromiter(chain.from_iterable(tokenizer.encode_batch(batch)), np.int64)
            counts[name] += np.bincount(ids, minlength=tokenizer.vocab_size)
    return {
        name: _measurement(tokenizer, counts[name], size=size, characters=characters)
        for name, tokenizer in named.items()
    }


def _measurement(
    tokenizer: Tokenizer, counts: NDArray[np.int64], *, size: int, characters: int
) -> Measurement:
    used = np.flatnonzero(counts)
    lengths = np.array([_length(tokenizer, i) for i in used.tolist()], np.int64)

    def listed(order: NDArray[np.intp]) -> tuple[TokenCount, ...]:
        ids = used[order[:_LISTED]].tolist()
        return tuple(TokenCount(i, token_picture(tokenizer, i), int(counts[i])) for i in ids)

    return Measurement(
        vocab_size=tokenizer.vocab_size,
        tokens=int(counts.sum()),
        bytes=size,
        characters=characters,
        used=len(used),
        dead_ids=tuple(i for i in np.flatnonzero(counts == 0).tolist() if _is_plain(tokenizer, i)),
        longest=listed(np.lexsort((-counts[used], -lengths))),
        most_frequent=listed(np.argsort(-counts[used], kind="stable")),
    )


def _length(tokenizer: Tokenizer, token: int) -> int:
    """Bytes of text that a token stands for; 0 where they can't be known."""
    return 0 if token == tokenizer.unk_id else len(bytes_of(tokenizer, token) or b"")


def _is_plain(tokenizer: Tokenizer, token: int) -> bool:
    """Whether plain text can give this token, as far as its own text tells."""
    if token in (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id):
        return False
    try:
        data = bytes_of(tokenizer, token)
    except TokenizerError:
        # tiktoken leaves gaps between its ids.
        return False
    if not data:
        # Bytes that can't be known are a part of a character; a control token has none.
        return data is None
    text = bytes_to_text(data)
    is_named = tokenizer.encode(text, allowed_special="all") == [token]
    return not is_named or tokenizer.encode(text) == [token]
