"""Text that is always the beginning of a Python program."""

import codecs
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from gptlab.errors import ConfigError
from gptlab.generation.python_prefix import PythonPrefix
from gptlab.generation.vocabulary import Vocabulary


class PythonConstraint:
    """A row whose prompt and new text are to begin a program; see `Constraint`.

    Which tokens may come is known only by trying them, so that `allowed` rules out little and
    `permits` decides.

    Args:
        vocabulary: The tokens.
        prompt: The row's ids so far; what precedes a special token does not count.

    Raises:
        ConfigError: The prompt is no beginning of a program.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._tried: dict[int, _State | None] = {}
        self._ended = False
        self._state = _State()
        for number, line in enumerate(vocabulary.after_special(prompt).splitlines(True), start=1):
            state = self._state.extended(line)
            if state is None:
                shown = line.decode("utf-8", "replace").strip()
                raise ConfigError(
                    f"line {number} of the prompt, {shown!r}, is no beginning of a Python program; "
                    "mend it, or leave valid_python out"
                )
            self._state = state

    @property
    def is_over(self) -> bool:
        """Whether the text has ended; a program itself can always go on."""
        return self._ended

    def allowed(self) -> Tensor:
        """All ids that are text, and the end where the program is whole, (V,) bool."""
        mask_V = self._vocabulary.is_text
        if self._vocabulary.eos_id is not None and self._state.is_complete:
            mask_V = mask_V.clone()
            mask_V[self._vocabulary.eos_id] = True
        return mask_V if not self._ended else torch.zeros_like(mask_V)

    def permits(self, token: int) -> bool:
        """Whether `token` keeps the text the beginning of a program, or ends a whole one."""
        if token == self._vocabulary.eos_id:
            return self._state.is_complete
        if token not in self._tried:
            text = self._vocabulary.texts[token]
            self._tried[token] = self._state.extended(text) if text else None
        return self._tried[token] is not None

    def advance(self, token: int) -> None:
        """Take note that `token` has come.

        Raises:
            ConfigError: It is not permitted.
        """
        if token == self._vocabulary.eos_id:
            self._ended = True
            return
        state = self._tried[token] if self.permits(token) else None
        if state is None:
            raise ConfigError(f"token {token} does not go on with a Python program; draw another")
        self._state, self._tried = state, {}


class _State:
    """The beginning of a program in bytes, whose last character may be unfinished."""

    def __init__(self, prefix: PythonPrefix | None = None, pending: bytes = b"") -> None:
        self._prefix = prefix or PythonPrefix()
        self._pending = pending

    @property
    def is_complete(self) -> bool:
        return not self._pending and self._prefix.is_complete

    def extended(self, data: bytes) -> "_State | None":
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(self._pending + data)
        except UnicodeDecodeError:
            return None
        pending = decoder.getstate()[0]
        prefix = self._prefix.extended(text)
        if prefix is None:
            return None
        if pending and not any(prefix.extended(sign) for sign in _characters(pending)):
            return None
        return _State(prefix, pending)


@lru_cache(maxsize=1024)
def _characters(beginning: bytes) -> tuple[str, ...]:
    """Of the characters whose UTF-8 begins so, one for each way that Python may take them."""
    ways = (str.isidentifier, lambda sign: ("a" + sign).isidentifier(), lambda _: True)
    found = (next(filter(way, _all_characters(beginning)), None) for way in ways)
    return tuple(sign for sign in found if sign)


def _all_characters(beginning: bytes) -> Iterator[str]:
    length = 2 if beginning[0] < 0xE0 else 3 if beginning[0] < 0xF0 else 4
    missing = length - len(beginning)
    for number in range(64**missing):
        tail = bytes(0x80 | (number >> 6 * place) & 0x3F for place in reversed(range(missing)))
        try:
            yield (beginning + tail).decode()
        except UnicodeDecodeError:
            continue
