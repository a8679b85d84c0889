"""One text that a scheduler makes, from both sides: of who asked for it, and of the scheduler."""

import threading
import time
import weakref
from collections.abc import Iterator
from typing import Literal, NamedTuple, Self

from gptlab.config import SamplingConfig
from gptlab.generation.completions import Completion
from gptlab.generation.rows import Ending, Row, Token
from gptlab.generation.texts import RowText
from gptlab.tokenizer import Tokenizer

State = Literal["waiting", "running", "done", "cancelled", "failed"]


class Times(NamedTuple):
    """When something happened, in seconds of `time.monotonic`; None if it has not."""

    submitted: float
    started: float | None = None
    """When it left the queue, before its prompt was read."""
    first_token: float | None = None
    ended: float | None = None


class Request:
    """A prompt that is continued; `Scheduler.submit` makes it, and any thread may use it.

    Iterating gives the text in pieces of whole characters as they come, to each reader from the
    beginning; it ends early where the request is cancelled, and raises where it fails. Pieces are
    kept, one a token at most, so that no reader holds others up. Used as a context manager, it is
    cancelled on the way out if it is not over. One that nobody holds any longer is cancelled too.
    """

    def __init__(self, prompt: str, config: SamplingConfig, *, prompt_tokens: int) -> None:
        self.prompt = prompt
        self.config = config
        self.prompt_tokens = prompt_tokens
        self._changed = threading.Condition()
        self._state: State = "waiting"
        self._times = Times(time.monotonic())
        self._tokens: list[Token] = []
        self._pieces: list[str] = []
        self._ending: Ending = "cancelled"
        self._error: Exception | None = None

    @property
    def state(self) -> State:
        """`waiting` in the queue, `running`, or how it is over: `done`, `cancelled`, `failed`."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._state not in ("waiting", "running")

    @property
    def times(self) -> Times:
        """When it came, started, got its first token and ended."""
        return self._times

    @property
    def new_tokens(self) -> int:
        """How many tokens it got, an end-of-sequence token not counted."""
        return len(self._tokens)

    def __iter__(self) -> Iterator[str]:
        place = 0
        while True:
            with self._changed:
                while place == len(self._pieces) and not self.is_over:
                    self._changed.wait()
                pieces = self._pieces[place:]
            if not pieces:
                break
            yield from pieces
            place += len(pieces)
        if self._error is not None:
            raise self._error

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the whole; of a cancelled request, what there is, with the ending `cancelled`.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: It is not over by then; it goes on.
            GenerationError: It has failed: the model's numbers are not finite, nothing is left to
                draw, or the scheduler has stopped.
            GptlabError: It has failed for another reason, such as a bias for an unknown id.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.is_over, timeout):
                raise TimeoutError(
                    f"the request is {self._state} after {timeout:g} s; wait longer, or cancel it"
                )
        if self._error is not None:
            raise self._error
        return Completion("".join(self._pieces), tuple(self._tokens), self._ending)

    def cancel(self) -> None:
        """End it now, if it is not over; its slot is free at the next step."""
        self._end("cancelled")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _start(self) -> None:
        with self._changed:
            if not self.is_over:
                self._state = "running"
                self._times = self._times._replace(started=time.monotonic())

    def _push(self, token: Token, piece: str) -> None:
        with self._changed:
            if self.is_over:
                return
            if not self._tokens:
                self._times = self._times._replace(first_token=time.monotonic())
            self._tokens.append(token)
            if piece:
                self._pieces.append(piece)
                self._changed.notify_all()

    def _end(
        self,
        state: State,
        *,
        ending: Ending = "cancelled",
        rest: str = "",
        error: Exception | None = None,
    ) -> None:
        with self._changed:
            if self.is_over:
                return
            if rest:
                self._pieces.append(rest)
            self._ending, self._error = ending, error
            self._times = self._times._replace(ended=time.monotonic())
            self._state = state
            self._changed.notify_all()


class Task:
    """A request as its scheduler holds it; it does not keep the request alive.

    Args:
        request: Who gets the text.
        row: What is continued.
        tokenizer: Whose ids the row has.
    """

    def __init__(self, request: Request, row: Row, tokenizer: Tokenizer) -> None:
        self.row = row
        self._text = RowText(row, tokenizer)
        self._request = weakref.ref(request)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        request = self._request()
        return request is not None and not request.is_over

    def start(self) -> None:
        """It has left the queue."""
        if request := self._request():
            request._start()

    def push(self, token: Token) -> None:
        """Pass on a token that the row got; the row fails where it has no text."""
        try:
            piece = self._text.push(token)
        # Tokenizers may be of any kind, and only this request knows the text.
        except Exception as error:
            self.row.error = error
            return
        if request := self._request():
            request._push(token, piece)

    def end(self) -> State:
        """Pass on how the row ended; what became of the request."""
        request = self._request()
        if request is None or request.is_over:
            return "cancelled"
        if self.row.error is None:
            try:
                request._end(
                    "done", ending=self.row.ending or "cancelled", rest=self._text.finish()
                )
            except Exception as error:
                self.row.error = error
        if self.row.error is not None:
            request._end("failed", error=self.row.error)
        return request.state

    def cancel(self) -> None:
        """Pass on that it is cancelled."""
        if request := self._request():
            request.cancel()
