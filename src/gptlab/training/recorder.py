"""Counts loss, tokens and time between two records of a run's metrics."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from torch import Tensor

from gptlab.training.evaluate import Evaluation
from gptlab.training.losses import diverged
from gptlab.training.session import Session
from gptlab.training.step import learning_rate


class Recorder:
    """Turns what happens to a session into records; the sums live in its state, to be saved."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._earlier_seconds = session.state.elapsed_seconds
        self._start = self._interval_start = time.perf_counter()
        self._interval_steps = 0
        self._speed = 0.0

    def count(self, loss: Tensor, weight: Tensor) -> None:
        """Add a step's loss.

        Raises:
            TrainingError: The loss is not finite.
        """
        state = self._session.state
        value = loss.item()
        if not math.isfinite(value):
            raise diverged(value, state.step)
        state.loss_sum += value
        state.loss_weight += weight.item()
        state.elapsed_seconds = self._earlier_seconds + time.perf_counter() - self._start
        self._interval_steps += 1

    @property
    def is_pending(self) -> bool:
        """Whether steps were made since the last record."""
        return self._interval_steps > 0

    def training_record(self) -> dict[str, Any]:
        """The steps since the last such record."""
        state = self._session.state
        tokens = self._interval_steps * self._session.tokens_per_step
        self._speed = tokens / (time.perf_counter() - self._interval_start)
        record = self._record("train", state.loss_sum / state.loss_weight)
        state.loss_sum = state.loss_weight = 0.0
        self._interval_start, self._interval_steps = time.perf_counter(), 0
        return record

    def evaluation_record(self, evaluation: Evaluation) -> dict[str, Any]:
        """An evaluation after the step just made."""
        record = self._record("eval", evaluation.loss)
        floor = self._session.inputs.floor
        if floor is not None:
            record["nats_per_character_above_floor"] = evaluation.nats_per_character - floor
        return {**record, **asdict(evaluation), "tokens": record["tokens"]}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent within does not count against the training speed."""
        start = time.perf_counter()
        yield
        self._interval_start += time.perf_counter() - start

    def _record(self, split: str, loss: float) -> dict[str, Any]:
        session = self._session
        state = session.state
        return {
            "step": state.step,
            "split": split,
            "loss": loss,
            "learning_rate": learning_rate(session, state.step - 1),
            "epoch": session.sampler.epoch(state.step),
            "tokens": state.step * session.tokens_per_step,
            "tokens_per_second": round(self._speed, 1),
            "elapsed_seconds": round(state.elapsed_seconds, 3),
        }
