"""How much text documents of tokens are, by decoding them piece by piece."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.data.packing import PackedTokens
from gptlab.data.sampler import WindowSampler
from gptlab.data.shards import TokenDataset
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatEncoder
from gptlab.tokenizer.special import silent_ids

_BLOCK = 1 << 18
# A character has at most 4 bytes, hence as many tokens; what is beyond changes nothing.
_CONTEXT = 8
# Windows whose places are looked up at a time.
_WINDOWS = 1 << 10

AnyIntArray = npt.NDArray[np.integer]


class TextSize:
    """Counts the text of documents that come in pieces, as if each were decoded at once.

    Special tokens are no text, for none is encoded to them. Memory is bounded however long a
    document is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.characters = 0
        """Of the text so far, without what is held back of the open document."""
        self.bytes = 0
        """The same in UTF-8."""
        self._tokenizer = tokenizer
        self._silent = sorted(silent_ids(tokenizer))
        self._held: list[AnyIntArray] = []
        self._length = 0

    def add(self, tokens: AnyIntArray) -> None:
        """Go on with the open document by (n,) ids."""
        tokens = tokens[~np.isin(tokens, self._silent)]
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


class MeasuredDataset(TokenDataset):
    """A dataset with windows of its own, and how much text their targets are.

    Each window counts, also where windows overlap. What a token adds to the text is the difference
    that it makes to the text before it, so the first token of a window only is context. The token
    that ends a document is no text. Of conversations, it is what the assistant says.

    Args:
        folder: The dataset, in mode chunk or segment, or of conversations.
        tokenizer: What made it.

    Raises:
        DataError: There is no dataset, another tokenizer made it, or it has no window.
    """

    def __init__(self, folder: str | Path, *, tokenizer: Tokenizer) -> None:
        super().__init__(folder, tokenizer=tokenizer.fingerprint())
        sampler = WindowSampler(
            self, seq_len=self.windows.length or 1, batch_size=1, seed=0, shuffle=False
        )
        self.tokens_read = sampler.num_windows * sampler.length
        """Inputs of all its windows, short ones counted as full."""
        self.num_targets = 0
        """Tokens that its windows predict."""
        self.target_characters = 0
        """Text of those tokens."""
        self.target_bytes = 0
        """The same in UTF-8."""
        if self.chat_template is not None:
            self._measure_answers(PackedTokens(self, length=sampler.length), tokenizer)
            return
        targets = _Targets(tokenizer)
        for first in range(0, sampler.num_windows, _WINDOWS):
            places = range(first, min(first + _WINDOWS, sampler.num_windows))
            starts, lengths = sampler.spans(places)
            self.num_targets += int(lengths.sum())
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                targets.add(start, self.read(start, length + 1))
        self.target_characters, self.target_bytes = targets.end()

    def _measure_answers(self, packed: PackedTokens, tokenizer: Tokenizer) -> None:
        assert self.chat_template is not None
        end_id = ChatEncoder(self.chat_template, tokenizer).end_id
        size = TextSize(tokenizer)
        for first in range(0, len(packed), _BLOCK):
            count = min(_BLOCK, len(packed) - first)
            tokens = packed.read_many([first], count)[0]
            answers = tokens[packed.read_marks([first], count)[0] == 1]
            self.num_targets += answers.size
            # All but the first begin with the end of the one before.
            for number, answer in enumerate(np.split(answers, np.flatnonzero(answers == end_id))):
                if number:
                    size.end_document()
                size.add(answer[answer != end_id])
        size.end_document()
        self.target_characters, self.target_bytes = size.characters, size.bytes


class _Targets:
    """Counts the text of all tokens but the first of each stretch that windows lie in."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._whole, self._context = TextSize(tokenizer), TextSize(tokenizer)
        self._eos_id = -1 if tokenizer.eos_id is None else tokenizer.eos_id
        self._last = -1

    def add(self, start: int, tokens: AnyIntArray) -> None:
        """Go on with a window: its inputs, from token `start` of the dataset on, and one more."""
        if start == self._last:
            self._add(self._whole, tokens[1:])
        else:
            for size, part in ((self._context, tokens[:1]), (self._whole, tokens)):
                size.end_document()
                self._add(size, part)
        self._last = start + tokens.size - 1

    def end(self) -> tuple[int, int]:
        """Characters and bytes of everything."""
        for size in (self._context, self._whole):
            size.end_document()
        return (
            self._whole.characters - self._context.characters,
            self._whole.bytes - self._context.bytes,
        )

    def _add(self, size: TextSize, tokens: AnyIntArray) -> None:
        begin = 0
        for end in np.flatnonzero(tokens == self._eos_id).tolist():
            size.add(tokens[begin:end])
            size.end_document()
            begin = end + 1
        size.add(tokens[begin:])
