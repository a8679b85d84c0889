"""Writes checkpoints while training goes on."""

import threading
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Self


class CheckpointWriter:
    """Does one job at a time in a thread of its own; a failure is raised at the next call.

    The thread keeps the process alive until its job is done, also where Ctrl-C or an error ends
    everything else. As a context it waits in the end.
    """

    def __init__(self) -> None:
        self.waited_seconds = 0.0
        """Seconds that callers have waited for a job to end."""
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def write(self, job: Callable[[], None]) -> None:
        """Start `job` as soon as the one before it is done.

        Raises:
            Exception: What the one before it raised; `job` is not started.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Return when there is nothing left to do.

        Raises:
            Exception: What the last job raised, once.
        """
        if self._thread is not None:
            start = time.perf_counter()
            self._thread.join()
            self.waited_seconds += time.perf_counter() - start
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            # Whatever ends the run is said last; this must not hide it, nor be hidden by it.
            warnings.warn(str(failure), stacklevel=2)

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self._failure = error
