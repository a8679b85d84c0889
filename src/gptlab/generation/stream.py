"""Token ids to pieces of text, never in the middle of a character, up to a stop text."""

import re
from collections.abc import Sequence

from gptlab.tokenizer import Tokenizer

_BROKEN = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_UNFINISHED = 3


class TextStream:
    """Turns ids into text as they come; the pieces joined are the text of all of them.

    What may still become another character, or the beginning of a stop text, is held back until
    it is decided. Of several stop texts, the one that is complete first ends the stream. A lone
    surrogate, which nothing can print, comes as U+FFFD, like other bytes that are no text.

    Args:
        tokenizer: Whose ids they are.
        stop: Texts that end the stream; they are not part of it.
        prompt: Ids of the text before the first one, for tokenizers that join words by what
            precedes.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), prompt: Sequence[int] = ()
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self._emitted = 0
        self._window = list(prompt)
        self._shrink_window()

    def push(self, token: int) -> str:
        """The text that is certain now that `token` has come."""
        if self.stopped:
            return ""
        self._window.append(token)
        text = self._text(self._window)
        # Tokenizers differ in whether an unfinished character is one U+FFFD or one for each byte.
        broken = len(text) - len(text.rstrip(_BROKEN))
        whole = text[: len(text) - min(broken, _LONGEST_UNFINISHED)]
        piece = whole[self._emitted :]
        self._emitted = max(self._emitted, len(whole))
        if not broken:
            self._shrink_window()
        return self._release(piece)

    def finish(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""
        if self.stopped:
            return ""
        rest = self._text(self._window)[self._emitted :]
        self._emitted += len(rest)
        piece = self._release(rest) + self._held
        self._held = ""
        return piece

    def _text(self, ids: Sequence[int]) -> str:
        # Each surrogate is three bytes, and each byte that is no text gives one U+FFFD.
        return _SURROGATE.sub(_BROKEN * 3, self._tokenizer.decode(ids))

    def _shrink_window(self) -> None:
        last = self._window[-1:]
        # After tokens without text a word would count as the first, which loses its space.
        if self._text(last):
            self._window = last
        self._emitted = len(self._text(self._window))

    def _release(self, piece: str) -> str:
        self._held += piece
        places = [(self._held.find(text), len(text)) for text in self._stop]
        found = [(start + length, start) for start, length in places if start >= 0]
        if found:
            self.stopped = True
            _, border = min(found)
            released, self._held = self._held[:border], ""
            return released
        border = len(self._held) - max(map(self._overlap, self._stop), default=0)
        released, self._held = self._held[:border], self._held[border:]
        return released

    def _overlap(self, stop: str) -> int:
        """Length of the longest beginning of `stop` with which the held text ends."""
        lengths = range(min(len(stop) - 1, len(self._held)), 0, -1)
        return next((n for n in lengths if self._held.endswith(stop[:n])), 0)
