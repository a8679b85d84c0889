"""What the adapters have in common."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from gptlab.errors import TokenizerError

Result = TypeVar("Result")


def in_background(call: Callable[[], Result], *, seconds: float | None = None) -> Result:
    """The result of `call`, made in a thread, so that a library that blocks can be given up on.

    Ctrl-C ends the wait, as `seconds` do. The thread then works on until it is done or the process
    ends, since a library's call can't be stopped from outside.

    Raises:
        TimeoutError: There was no result within `seconds`.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError as error:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} seconds") from error


def refuse_dropout(dropout: float) -> None:
    """Do nothing for a `dropout` of 0.

    Raises:
        TokenizerError: Dropout is asked for, which no adapter has.
    """
    if dropout:
        raise TokenizerError(
            f"dropout={dropout} is for gptlab's own BPE: set it to 0 with any other tokenizer"
        )


def one_line(error: BaseException) -> str:
    """Name and message of an error, as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
