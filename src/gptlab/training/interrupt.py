"""Ctrl-C and SIGTERM end a run between two steps, not within one."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

_STDERR = 2


class BrokenOffError(Exception):
    """A signal came, and what was going on can be done again later."""


class Interrupt:
    """While entered, the first signal is noted in `requested`; a second one acts at once.

    Args:
        may_repeat: Signals come several times, as torchrun sends them; none of them acts at once,
            nor after an error, so that a process has time to say what was wrong.
        answers: Whether the first signal is answered with a line on standard error.
    """

    def __init__(self, *, may_repeat: bool = False, answers: bool = False) -> None:
        self.requested = False
        self._may_repeat, self._answers = may_repeat, answers
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread only; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._may_repeat and kind is not None:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._answers and not self.requested:
            again = "" if self._may_repeat else "; once more stops at once"
            # What a signal interrupts may itself be writing to a stream.
            with suppress(OSError):
                os.write(_STDERR, f"\nstopping after this step{again}\n".encode())
        self.requested = True
        if not self._may_repeat:
            signal.signal(number, self._previous[number])
