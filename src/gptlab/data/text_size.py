"""How much text documents of tokens are, by decoding them piece by piece."""

import numpy as np
import numpy.typing as npt

from gptlab.tokenizer import Tokenizer

_BLOCK = 1 << 18
# A character has at most 4 bytes, hence as many tokens; what is beyond changes nothing.
_CONTEXT = 8

AnyIntArray = npt.NDArray[np.integer]


class TextSize:
    """Counts the text of documents that come in pieces, as if each were decoded at once.

    Memory is bounded however long a document is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.characters = 0
        """Of the text so far, without what is held back of the open document."""
        self.bytes = 0
        """The same in UTF-8."""
        self._tokenizer = tokenizer
        self._held: list[AnyIntArray] = []
        self._length = 0

    def add(self, tokens: AnyIntArray) -> None:
        """Go on with the open document by (n,) ids."""
        self._held.append(tokens)
        self._length += tokens.size
        if self._length >= _BLOCK:
            ids = np.concatenate(self._held).tolist()
            cut = self._last_cut(ids)
            self._count(ids[:cut])
            self._held, self._length = [np.array(ids[cut:], np.int64)], len(ids) - cut

    def end_document(self) -> None:
        """Count what is left of the open document; the next piece begins another."""
        if self._length:
            self._count(np.concatenate(self._held).tolist())
            self._held, self._length = [], 0

    def _last_cut(self, ids: list[int]) -> int:
        """The last place where the text of both sides together is that of the whole; 0 if none."""
        decode = self._tokenizer.decode
        for cut in range(len(ids) - 1, 0, -1):
            before, after = ids[max(cut - _CONTEXT, 0) : cut], ids[cut : cut + _CONTEXT]
            if decode(before) + decode(after) == decode(before + after):
                return cut
        return 0

    def _count(self, ids: list[int]) -> None:
        text = self._tokenizer.decode(ids)
        self.characters += len(text)
        self.bytes += len(text.encode("utf-8", "surrogatepass"))
