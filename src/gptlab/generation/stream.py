"""Token ids to pieces of text, never in the middle of a character, up to a stop text."""

from collections.abc import Sequence

from gptlab.tokenizer import Tokenizer

_BROKEN = "\ufffd"
_CONTEXT_TOKENS = 4


class TextStream:
    """Turns ids into text as they come; the pieces joined are the text of all of them.

    What may still become another character, or the beginning of a stop text, is held back until
    it is decided.

    Args:
        tokenizer: Whose ids they are.
        stop: Texts that end the stream; they are not part of it.
        prompt: Ids before the first one, for tokenizers that join words by what precedes.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), prompt: Sequence[int] = ()
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._window = list(prompt[-_CONTEXT_TOKENS:])
        self._emitted = len(tokenizer.decode(self._window))
        self._held = ""

    def push(self, token: int) -> str:
        """The text that is certain now that `token` has come."""
        if self.stopped:
            return ""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        whole = text[:-1] if text.endswith(_BROKEN) else text
        piece = whole[self._emitted :]
        self._emitted = max(self._emitted, len(whole))
        if whole is text:
            self._shrink_window()
        return self._release(piece)

    def finish(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""
        if self.stopped:
            return ""
        rest = self._tokenizer.decode(self._window)[self._emitted :]
        piece = self._release(rest) + self._held
        self._held = ""
        return piece

    def _shrink_window(self) -> None:
        self._window = self._window[-_CONTEXT_TOKENS:]
        self._emitted = len(self._tokenizer.decode(self._window))

    def _release(self, piece: str) -> str:
        self._held += piece
        found = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        border = len(self._held) - max(map(self._overlap, self._stop), default=0)
        released, self._held = self._held[:border], self._held[border:]
        return released

    def _overlap(self, stop: str) -> int:
        """Length of the longest beginning of `stop` with which the held text ends."""
        lengths = range(min(len(stop) - 1, len(self._held)), 0, -1)
        return next((n for n in lengths if self._held.endswith(stop[:n])), 0)
