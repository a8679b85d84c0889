"""Work on several processor cores, in order and in bounded memory."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, TypeVar

from gptlab.errors import ConfigError, WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    make_function: Callable[[], Callable[[Item], Result]],
    items: Iterable[Item],
    *,
    processes: int | None = None,
) -> Generator[Result, None, None]:
    """A function of each item, in the order of the items, computed in worker processes.

    Items are read as they are needed, one ahead of those at work. A single item is not worth a
    process and is computed here, as everything is with `processes=1` and in a process that may not
    have children.

    Args:
        make_function: Makes the function, once in each worker, so that it can keep what it needs
            from one item to the next; something that can be pickled, such as a class. Where
            processes are spawned, on Windows and macOS, a script that comes here must be guarded
            by `if __name__ == "__main__"`.
        items: What the function is called with, one at a time.
        processes: How many workers; one a core if None.

    Raises:
        ConfigError: `processes` is less than 1.
        WorkerError: A worker was killed, or could not start.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}; choose 1 or more")
    workers = 1 if current_process().daemon else processes or available_cores()
    items = iter(items)
    head = list(islice(items, 2))
    if workers == 1 or len(head) < 2:
        yield from map(make_function(), chain(head, items))
        return
    team: list[_Worker] = []
    try:
        begun = 0
        for item in chain(head, items):
            if begun < workers:
                team.append(_Worker(make_function))
                team[-1].begin(item)
            else:
                # They take turns, so the one whose turn it is has the oldest item.
                worker = team[begun % workers]
                result = worker.result()
                worker.begin(item)
                yield result
            begun += 1
        for number in range(begun - len(team), begun):
            yield team[number % len(team)].result()
    finally:
        for worker in team:
            worker.end()


class _Worker:
    """A process that has at most one item at a time."""

    def __init__(self, make_function: Callable[[], Callable[[Any], Any]]) -> None:
        # A forked process starts at once, shares memory, and needs no guard in the caller's script.
        context: Any = get_context("fork" if sys.platform == "linux" else None)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(make_function, theirs, self._connection), daemon=True
        )
        with _interrupts_deferred():
            self._process.start()
        # With no copy of its end here, a dead worker is the end of what can be read from it.
        theirs.close()

    def begin(self, item: Any) -> None:
        try:
            self._connection.send(item)
        except OSError as error:
            raise self._lost() from error

    def result(self) -> Any:
        try:
            result, error = self._connection.recv()
        except (EOFError, OSError) as broken:
            raise self._lost() from broken
        if error is not None:
            raise error
        return result

    def _lost(self) -> WorkerError:
        self._process.join(timeout=1)
        return WorkerError(
            f"a worker process was killed or ended unasked (exit code {self._process.exitcode}), "
            f"perhaps for want of memory: run again, with fewer processes if so"
        )

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Let Ctrl-C wait, lest it come where a new process does not ignore it yet."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    signals: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *received: signals.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if signals:
        handler(*signals[0])


def _work(
    make_function: Callable[[], Callable[[Any], Any]],
    connection: "Connection[Any, Any]",
    parents_end: "Connection[Any, Any]",
) -> None:
    """Answer items until the parent is gone; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parents_end.close()
    try:
        function = make_function()
        while True:
            connection.send((function(connection.recv()), None))
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        # That the parent is gone is an error too, and there is nobody to tell.
        with suppress(ConnectionError):
            connection.send((None, error))


def batched(
    items: Iterable[Item], size: int, *, length: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Items in lists of a total length of `size`, or as much more as the last of a list has."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += length(item)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def available_cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
