"""Many requests through one model: each step draws a token for all that run.

Orca (Yu et al. 2022, https://www.usenix.org/conference/osdi22/presentation/yu) calls it
iteration-level scheduling: a request starts as soon as there is a slot, and not when a batch ends.
"""

import contextlib
import threading
from collections import Counter
from types import TracebackType
from typing import NamedTuple, Self

import torch

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError, GenerationError
from gptlab.generation.batch import Batch, check_row
from gptlab.generation.generator import Generator
from gptlab.generation.queue import RequestQueue
from gptlab.generation.requests import Request, State, Task
from gptlab.model import Transformer

_DEFAULT = SamplingConfig()


class Stats(NamedTuple):
    """What a scheduler has done, and has to do."""

    running: int
    waiting: int
    done: int
    cancelled: int
    failed: int
    tokens: int
    """Drawn for all requests so far, without ends of sequences."""
    steps: int


class Scheduler:
    """Continues many prompts at a time, which may come and leave at any time.

    Each step takes requests from the queue, first come, first served, and draws a token for all
    that run. Under a seed, a request gets the text that `Generator.generate` gives to its prompt
    alone, whenever it comes and whatever else runs. An error of one request ends no other one.

    Either call `step` by hand, or let a thread do it: `with Scheduler(generator) as scheduler:`.
    Every other method may be called by any thread at any time. Until it is closed, the generator
    is not to be used otherwise.

    Memory is bounded: keys and values of `slots` times the model's seq_len tokens, and as many of
    sources where it has an encoder, made at once (`cache_bytes`), `queue_limit` prompts, and the
    text of each request while somebody holds it.

    Args:
        generator: The model and its tokenizer. With `compile="on"`, the first steps compile; with
            `auto`, none does, for how much will come is unknown.
        slots: Most requests that run at a time.
        queue_limit: Most requests that wait.
        prefill_tokens: Most tokens of prompts that a step reads, padding included, so that those
            that run are not held up for long; a longer prompt is read in a step of its own.
            Prompts that are the same count, and are read, once.

    Raises:
        ConfigError: A number is below 1, or the generator has a drafter.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        slots: int = 8,
        queue_limit: int = 64,
        prefill_tokens: int = 512,
    ) -> None:
        if generator.acceptance is not None:
            raise ConfigError(
                "the generator has a drafter, but a scheduler draws token by token; give one "
                "without"
            )
        limits = {"slots": slots, "queue_limit": queue_limit, "prefill_tokens": prefill_tokens}
        for name, value in limits.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; give at least 1")
        seq_len = generator.model.config.seq_len
        self._generator, self._slots = generator, slots
        steps = generator.compiler.steps(1)
        self._batch = Batch(
            generator.model,
            slots=slots,
            capacity=seq_len,
            source_capacity=seq_len if isinstance(generator.model, Transformer) else 0,
            steps=steps,
        )
        # Autocast belongs to a thread, and steps are made in another one.
        device = generator.model.device.type
        self._autocast = torch.autocast(
            device,
            torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
        )
        self._waiting = RequestQueue(
            limit=queue_limit, prefill_tokens=prefill_tokens, seq_len=seq_len
        )
        self._running: dict[int, Task] = {}
        self._over: Counter[State] = Counter()
        self._tokens = self._steps = 0
        self._is_closed = self._is_given_back = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._stepping = threading.Lock()

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, which do not grow."""
        return self._batch.cache_bytes

    @property
    def stats(self) -> Stats:
        """How many requests run, wait and are over, and what was done for them."""
        with self._changed:
            return Stats(
                running=len(self._running),
                waiting=len(self._waiting),
                done=self._over["done"],
                cancelled=self._over["cancelled"] + self._waiting.cancelled,
                failed=self._over["failed"],
                tokens=self._tokens,
                steps=self._steps,
            )

    def submit(self, prompt: str, config: SamplingConfig = _DEFAULT) -> Request:
        """Put a prompt into the queue. Keep what is returned: what nobody holds is cancelled.

        Raises:
            QueueFullError: `queue_limit` requests are waiting.
            GenerationError: The scheduler is closed, or has stopped by an error.
            ConfigError: The prompt can't be read, the text would overflow and may not, or there
                can't be what `config` holds it to.
        """
        ids = self._generator.encode_prompt(prompt)
        (row,) = self._generator.make_rows([ids], config)
        check_row(self._generator.model, row)
        request = Request(prompt, config, prompt_tokens=len(ids))
        with self._changed:
            self._check_open()
            self._waiting.put(Task(request, row, self._generator.tokenizer))
            self._changed.notify_all()
        return request

    def step(self) -> bool:
        """Take requests from the queue, and draw a token for all that run; whether work is left.

        What else goes wrong than a single request ends them all, and the scheduler; it is raised.
        """
        with self._stepping:
            if self._error is not None:
                return False
            try:
                with self._autocast:
                    self._retire_unwanted()
                    self._batch.advance()
                    self._admit()
                    self._draw()
            except BaseException as error:
                self._stop(error)
                raise
        return self._has_work()

    def serve_forever(self) -> None:
        """Step while there is work, and sleep while there is none, until `close` is called."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._has_work())
                if not self._has_work():
                    return
            self.step()

    def start(self) -> None:
        """Let a thread serve, if none does; it lives until `close` is called.

        Raises:
            GenerationError: The scheduler is closed, or has stopped by an error.
        """
        with self._changed:
            self._check_open()
            if self._thread is None:
                # A process that ends without closing does not wait for it.
                self._thread = threading.Thread(
                    target=self._serve, name="gptlab-scheduler", daemon=True
                )
                self._thread.start()

    def close(self, *, finish: bool = True) -> None:
        """Take no more requests, and return when none is left.

        Args:
            finish: Whether those that wait and run are finished; else they are cancelled.
        """
        with self._changed:
            self._is_closed = True
            if not finish:
                for task in (*self._waiting, *self._running.values()):
                    task.cancel()
            self._changed.notify_all()
        if self._thread is threading.current_thread():
            return
        if self._thread is None:
            self.serve_forever()
        else:
            self._thread.join()
        with self._stepping:
            if not self._is_given_back:
                self._batch.close()
                self._is_given_back = True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(finish=exc_type is None)

    def _serve(self) -> None:
        # Every request has been told, and whoever submits another one is.
        with contextlib.suppress(Exception):
            self.serve_forever()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def _check_open(self) -> None:
        if self._error is not None:
            raise _stopped(self._error)
        if self._is_closed:
            raise GenerationError("the scheduler is closed; make another one")

    def _retire_unwanted(self) -> None:
        """End the rows of requests that were cancelled."""
        with self._changed:
            self._waiting.forget_unwanted()
            for task in [task for task in self._running.values() if not task.is_wanted]:
                task.row.ending = "cancelled"
                self._retire(task)

    def _admit(self) -> None:
        with self._changed:
            tasks = self._waiting.take(self._slots - len(self._batch.rows))
            self._running |= {id(task.row): task for task in tasks}
        if not tasks:
            return
        for task in tasks:
            task.start()
        self._batch.admit([task.row for task in tasks])

    def _draw(self) -> None:
        drawn = self._batch.draw()
        for row, token in drawn:
            self._running[id(row)].push(token)
        with self._changed:
            self._tokens += len(drawn)
            self._steps += 1
            for task in [task for task in self._running.values() if task.row.is_over]:
                self._retire(task)

    def _retire(self, task: Task) -> None:
        del self._running[id(task.row)]
        self._over[task.end()] += 1

    def _stop(self, error: BaseException) -> None:
        """Tell all requests that nothing more will come."""
        with self._changed:
            self._error = error
            for task in (*self._running.values(), *self._waiting):
                task.row.error = _stopped(error)
                self._over[task.end()] += 1
            self._running.clear()
            self._waiting.clear()
            self._changed.notify_all()


def _stopped(cause: BaseException) -> GenerationError:
    reason = next(iter(str(cause).strip().splitlines()), "")
    error = GenerationError(
        f"the scheduler has stopped by {type(cause).__name__}: {reason}; make another one"
    )
    error.__cause__ = cause
    return error
