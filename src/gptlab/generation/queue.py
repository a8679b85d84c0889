"""Requests that wait for a scheduler: first come, first served."""

from collections import deque
from collections.abc import Iterator

from gptlab.errors import QueueFullError
from gptlab.generation.requests import Task
from gptlab.generation.rows import Reading


class RequestQueue:
    """Tasks in the order in which they came. Threads must take turns.

    Args:
        limit: Most that wait.
        prefill_tokens: Most tokens of prompts, padding included, that are taken at once.
        seq_len: The model's; of a longer prompt, its end is read.
    """

    def __init__(self, *, limit: int, prefill_tokens: int, seq_len: int) -> None:
        self.cancelled = 0
        """How many left it because nobody wants them any longer."""
        self._limit, self._prefill_tokens, self._seq_len = limit, prefill_tokens, seq_len
        self._tasks: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def put(self, task: Task) -> None:
        """Let a task wait.

        Raises:
            QueueFullError: As many wait as may.
        """
        if len(self) >= self._limit:
            self.forget_unwanted()
        if len(self) >= self._limit:
            raise QueueFullError(
                f"{len(self)} requests are waiting, which is the queue_limit; try again later, or "
                "give the scheduler a larger one"
            )
        self._tasks.append(task)

    def take(self, most: int) -> list[Task]:
        """Those whose turn it is, at most `most`, and as far as `prefill_tokens` go.

        Prompts that are the same count once, and the first one may have any length.
        """
        taken: list[Task] = []
        prompts: set[Reading] = set()
        while self._tasks and len(taken) < most:
            prompts.add(self._tasks[0].row.reading(self._seq_len))
            # Shorter ones are padded.
            longest = max(prompt.tokens for prompt in prompts)
            if taken and len(prompts) * longest > self._prefill_tokens:
                break
            taken.append(self._tasks.popleft())
        return taken

    def forget_unwanted(self) -> None:
        """Let go of those that were cancelled."""
        wanted = deque(task for task in self._tasks if task.is_wanted)
        self.cancelled += len(self) - len(wanted)
        self._tasks = wanted

    def clear(self) -> None:
        """Let go of all."""
        self._tasks.clear()
