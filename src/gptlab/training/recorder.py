"""Counts loss, tokens and time between two records of a run's metrics."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gptlab.config import TrainConfig
from gptlab.training.cost import comparable_peak
from gptlab.training.evaluate import Evaluation, split_loss
from gptlab.training.examine import AnyEvaluation
from gptlab.training.losses import LossSums
from gptlab.training.memory import peak_memory
from gptlab.training.metrics import MetricsLog
from gptlab.training.session import Session
from gptlab.training.step import StepReport, rate_of

# Where the state keeps each of LossSums, since the last record.
_SUMS = (
    "objective_sum",
    "objective_weight",
    "nats_sum",
    "tokens_sum",
    "key_nats_sum",
    "key_tokens_sum",
)


def is_record_due(session: Session) -> bool:
    """Whether the step just made calls for a record of training."""
    config, step = session.config, session.state.step
    if config.log_strategy == "no":
        return False
    if step == session.total_steps:
        return True
    if config.log_strategy == "epoch":
        return session.crossed_epochs(1)
    return step % config.log_every == 0


class Recorder:
    """Turns what happens to a session into records; the sums live in its state, to be saved.

    Args:
        session: The run.
        log: Where the records go; None in all processes but the first.
    """

    def __init__(self, session: Session, log: MetricsLog | None) -> None:
        self._session, self._log = session, log
        self._earlier_seconds = session.state.elapsed_seconds
        self._start = self._interval_start = time.perf_counter()
        self._interval_tokens = 0
        self._speed = 0.0
        # What is counted, which of labelled texts is no token.
        self._unit = "tok" if session.inputs.labelled is None else "targets"
        if session.inputs.pairs is not None:
            self._unit = "target tok"
        if session.config.learns_masks:
            self._unit = "masked tok"
        self._peak_flops = comparable_peak(session)

    def count(self, report: StepReport) -> None:
        """Add a step."""
        state = self._session.state
        state.elapsed_seconds = self._earlier_seconds + time.perf_counter() - self._start
        if self._session.config.max_minutes is not None:
            # Where a clock may end the run, it is the first process's.
            state.elapsed_seconds = self._session.ranks.share(state.elapsed_seconds)
        self._interval_tokens += round(report.sums.tokens.item())
        if report.is_finite:
            for name, value in zip(_SUMS, report.sums, strict=True):
                setattr(state, name, getattr(state, name) + value.item())
            state.tokens += round(report.sums.tokens.item())
            state.gradient_norm = report.gradient_norm

    @property
    def is_pending(self) -> bool:
        """Whether steps were made since the last record, and not left out on purpose."""
        state = self._session.state
        return state.step > state.recorded and self._session.config.log_strategy != "no"

    def write_training(self) -> str:
        """Write a record of the steps since the last such record; its gist for a progress bar."""
        record = self._training_record()
        self._write(record)
        loss = "none" if record["loss"] is None else f"{record['loss']:.3f}"
        share = "" if record.get("mfu") is None else f", {record['mfu']:.0%} of peak"
        return f"loss {loss}, {record['tokens_per_second']:,.0f} {self._unit}/s{share}"

    def write_evaluation(self, evaluation: AnyEvaluation) -> None:
        """Write a record of an evaluation after the step just made."""
        record = self._record("eval", evaluation.loss)
        floor = self._session.inputs.floor
        if floor is not None and isinstance(evaluation, Evaluation):
            record["nats_per_character_above_floor"] = evaluation.nats_per_character - floor
        found = {name: value for name, value in asdict(evaluation).items() if value is not None}
        self._write({**record, **found, "tokens": record["tokens"]})

    def _write(self, record: dict[str, Any]) -> None:
        self._session.state.records += 1
        if self._log is not None:
            self._log.write(record)

    def _training_record(self) -> dict[str, Any]:
        session, state = self._session, self._session.state
        self._speed = self._interval_tokens / (time.perf_counter() - self._interval_start)
        sums = LossSums(
            *(torch.tensor(getattr(state, name), dtype=torch.float64) for name in _SUMS)
        )
        record = self._record("train", _mean(sums.nats, sums.tokens))
        if _differs(session.config):
            record["objective"] = _mean(sums.objective, sums.weight)
        key_loss, other_loss = split_loss(sums)
        if key_loss is not None:
            record |= {"key_loss": key_loss, "other_loss": other_loss}
        record["gradient_norm"] = state.gradient_norm
        if self._peak_flops is not None:
            flops = session.model.flops_per_token() * self._speed
            record["mfu"] = round(flops / self._peak_flops, 4)
        record["memory_bytes"] = peak_memory(session.arithmetic.device)
        if session.scale.enabled:
            record["loss_scale"] = session.scale.scale
        if state.skipped_steps:
            record["skipped_steps"] = state.skipped_steps
        for name in _SUMS:
            setattr(state, name, 0.0)
        state.recorded = state.step
        self._interval_start, self._interval_tokens = time.perf_counter(), 0
        return record

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent within does not count against the training speed."""
        start = time.perf_counter()
        yield
        self._interval_start += time.perf_counter() - start

    def _record(self, split: str, loss: float | None) -> dict[str, Any]:
        session = self._session
        state = session.state
        return {
            "step": state.step,
            "split": split,
            "loss": loss,
            "learning_rate": rate_of(session, state.step - 1),
            "epoch": session.sampler.epoch(state.step),
            "tokens": state.tokens,
            "tokens_per_second": round(self._speed, 1),
            "elapsed_seconds": round(state.elapsed_seconds, 3),
        }


def _differs(config: TrainConfig) -> bool:
    """Whether what is minimised is not the plain loss."""
    return bool(config.key_tokens or config.label_smoothing or config.z_loss)


def _mean(total: Tensor, weight: Tensor) -> float | None:
    """None where every step was left out."""
    return (total / weight).item() if weight else None
