"""Work on several processor cores, in order and in bounded memory."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from gptlab.errors import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    make_function: Callable[[], Callable[[Item], Result]],
    items: Iterable[Item],
    *,
    processes: int | None = None,
) -> Iterator[Result]:
    """A function of each item, in the order of the items, computed in worker processes.

    Only a few items at a time are read, at work or waiting to be taken. A single item is not worth
    a process and is computed here, as everything is with `processes=1`.

    Args:
        make_function: Makes the function, once in each worker, so that it can keep what it needs
            from one item to the next; something that can be pickled, such as a class.
        items: What the function is called with, one at a time.
        processes: How many workers; one a core if None.

    Raises:
        WorkerError: A worker was killed.
    """
    workers = processes or available_cores()
    items = iter(items)
    head = list(islice(items, 2))
    if workers == 1 or len(head) < 2:
        yield from map(make_function(), chain(head, items))
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_begin_worker, initargs=(make_function,)
    )
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(head, items):
            waiting.append(pool.submit(_call, item))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerError(
            f"one of {workers} worker processes was killed, perhaps for want of memory: "
            f"run again, with fewer processes if so"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


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


def _context() -> BaseContext:
    # A forked worker starts at once, shares memory, and needs no guard in the caller's script.
    return get_context("fork" if sys.platform == "linux" else None)


def _begin_worker(make_function: Callable[[], Callable[[Any], Any]]) -> None:
    """Leave Ctrl-C to the parent, end with it even if it is killed, and make the function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A worker process has nothing but its module to keep its function in between two calls.
    globals()["_function"] = make_function()


def _call(item: Any) -> Any:
    return globals()["_function"](item)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
