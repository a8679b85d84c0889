"""What of the model's ids are tokens, and their bytes. V is the number of the model's logits."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptlab.errors import TokenizerError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.inspection.picture import bytes_of


def unknown_ids(
    tokenizer: Tokenizer, vocab_size: int, *, device: torch.device | str = "cpu"
) -> Tensor | None:
    """The model's ids that the tokenizer does not have, (V,) bool; None if it has all.

    Many pretrained models have more rows than their tokenizer has ids, so that their number is a
    multiple of 128 or the like, and tokenizers of others may have gaps.
    """
    gaps = [token for token in getattr(tokenizer, "gaps", ()) if token < vocab_size]
    if tokenizer.vocab_size >= vocab_size and not gaps:
        return None
    unknown_V = torch.zeros(vocab_size, dtype=torch.bool)
    unknown_V[tokenizer.vocab_size :] = True
    unknown_V[gaps] = True
    return unknown_V.to(device)


class Vocabulary:
    """The tokens that can be part of a text, and the one that ends it.

    Args:
        tokenizer: Whose tokens they are.
        vocab_size: Number of the model's logits.
        eos_id: The token that ends a text, if there is one; of no effect beyond the logits.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_id: int | None) -> None:
        self.tokenizer = tokenizer
        self.size = vocab_size
        self.eos_id = eos_id if eos_id is not None and eos_id < vocab_size else None
        self.special_ids = _special_ids(tokenizer)
        self.texts = [self._text(token) for token in range(vocab_size)]
        """The bytes of each id; empty where it is no text."""
        self.is_text = torch.tensor([bool(text) for text in self.texts], dtype=torch.bool)
        """Which ids are text, (V,) bool."""
        self._sorted = sorted((text, token) for token, text in enumerate(self.texts) if text)
        self._longest = max(map(len, self.texts), default=0)

    def after_special(self, ids: Sequence[int]) -> bytes:
        """The bytes of what follows the last special token of `ids`."""
        start = max((i + 1 for i, token in enumerate(ids) if token in self.special_ids), default=0)
        return b"".join(self.texts[token] for token in ids[start:])

    def beginnings(self, text: bytes) -> Iterator[int]:
        """The ids of the tokens with which `text` begins, itself included."""
        for length in range(1, min(len(text), self._longest) + 1):
            yield from self._starting_with(text[:length], exactly=True)

    def continuations(self, text: bytes) -> Iterator[int]:
        """The ids of the longer tokens that begin with `text`."""
        yield from self._starting_with(text, exactly=False)

    def _starting_with(self, text: bytes, *, exactly: bool) -> Iterator[int]:
        place = bisect_right(self._sorted, (text, -1))
        while place < len(self._sorted) and self._sorted[place][0].startswith(text):
            found, token = self._sorted[place]
            if exactly and found != text:
                return
            if (found == text) == exactly:
                yield token
            place += 1

    def _text(self, token: int) -> bytes:
        if token in self.special_ids or token >= self.tokenizer.vocab_size:
            return b""
        try:
            return bytes_of(self.tokenizer, token) or b""
        except TokenizerError:
            return b""  # a gap between the ids


def _special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    roles = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    named = getattr(tokenizer, "special_tokens", {})
    return frozenset({*named.values(), *(token for token in roles if token is not None)})
