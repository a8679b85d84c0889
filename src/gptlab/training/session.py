"""Everything that a run holds while it trains, built from its settings."""

import hashlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from tqdm import tqdm

from gptlab.checkpoint import load_model, verify
from gptlab.config import DatasetConfig, ModelConfig, OptimizerConfig, TrainConfig
from gptlab.config.training import AUTO
from gptlab.data import TokenDataset, WindowSampler
from gptlab.data.mixture import MixedSampler
from gptlab.data.sampler import Sampler
from gptlab.errors import ConfigError
from gptlab.model import GPT
from gptlab.tokenizer import load_tokenizer
from gptlab.training.inputs import Inputs, load_inputs
from gptlab.training.loader import BatchLoader, DeviceBatch
from gptlab.training.metrics import summary_writer
from gptlab.training.optimizers import make_optimizer
from gptlab.training.precision import Arithmetic, choose_arithmetic
from gptlab.training.run_folder import choose_run, continued, has_settings, resumable_checkpoint
from gptlab.training.sources import Say
from gptlab.training.state import TrainState, restore_state

Mixture = tuple[tuple[WindowSampler, Fraction], ...]
"""A sampler for each source of training data, and its weight among them."""


@dataclass(frozen=True)
class Session:
    """The parts of one run; `state`, the model and the optimizer change as it goes."""

    config: TrainConfig
    folder: Path
    inputs: Inputs
    mixture: Mixture
    sampler: Sampler
    loader: BatchLoader
    arithmetic: Arithmetic
    model: GPT
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    state: TrainState
    total_steps: int

    @property
    def tokens_per_step(self) -> int:
        """What a step reads, short windows counted as full ones."""
        return self.config.batch_size * self.mixture[0][0].length

    def batch(self, step: int) -> DeviceBatch:
        """What `step` reads, on the device."""
        return self.loader.batch(step)

    def crossed_epochs(self, number: int) -> bool:
        """Whether the step just made completed a further `number` epochs."""
        step = self.state.step
        done, before = self.sampler.epoch(step), self.sampler.epoch(step - 1)
        return int(done / number) > int(before / number)

    def say(self, line: str) -> None:
        """Print a line beside the progress bar, unless the run is quiet."""
        if not self.config.quiet:
            say(line)


def say(line: str) -> None:
    """Print a line beside a progress bar."""
    # A reader that has left or a log on a full disk is no reason to stop training.
    with suppress(OSError):
        tqdm.write(line)
        sys.stdout.flush()


def open_session(config: TrainConfig) -> Session:
    """Build a run, or rebuild the one to resume; nothing is written into its folder yet.

    Raises:
        GptlabError: A setting, a file or a device does not fit.
    """
    tell: Say = (lambda _line: None) if config.quiet else say
    if config.tensorboard:
        summary_writer()
    folder = choose_run(config)
    checkpoint = resumable_checkpoint(folder) if config.resume else None
    if checkpoint is not None:
        verify(checkpoint)
    if config.resume and has_settings(folder):
        config = continued(config, folder)
    arithmetic = choose_arithmetic(config.device, config.precision)
    saved_tokenizer = None if checkpoint is None else load_tokenizer(checkpoint)
    inputs = load_inputs(config, saved=saved_tokenizer, say=tell)
    config = config.replace(
        vocab_size=inputs.tokenizer.vocab_size,
        seq_len=inputs.seq_len,
        experiment_name=folder.name,
        precision=arithmetic.precision,
    )
    mixture = _make_mixture(config, inputs)
    sampler = mixture[0][0] if len(mixture) == 1 else MixedSampler(mixture)
    if checkpoint is None:
        model = GPT(config.part(ModelConfig), seed=config.seed).to(arithmetic.device)
    else:
        model = load_model(checkpoint, device=arithmetic.device, attention=config.attention)
    optimizer = make_optimizer(model, config.part(OptimizerConfig))
    scaler = arithmetic.scaler()
    train = [data.dataset for data in inputs.train]
    state = TrainState(texts=[_fingerprint(train), _fingerprint(inputs.evaluation)])
    if checkpoint is not None:
        fresh, state = state, restore_state(checkpoint, model, optimizer, scaler)
        _require_same_text(fresh, state, config, checkpoint)
        tell(f"going on from {checkpoint}, after step {state.step:,}")
    elif config.resume and has_settings(folder):
        tell(f"{folder} has no checkpoint to go on from: it starts afresh")
    model.train()
    return Session(
        config=config,
        folder=folder,
        inputs=inputs,
        mixture=mixture,
        sampler=sampler,
        loader=BatchLoader(sampler, device=arithmetic.device),
        arithmetic=arithmetic,
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        state=state,
        total_steps=config.max_steps or sampler.step_at(config.epochs),
    )


def _make_mixture(config: TrainConfig, inputs: Inputs) -> Mixture:
    settings = config.part(DatasetConfig).model_dump()
    mixture = []
    for data in inputs.train:
        sampler = WindowSampler(data.dataset, seq_len=config.seq_len, **settings)
        # By the number of its windows, each of them comes as often as if all were one text.
        weight = Fraction(sampler.num_windows) if data.weight is None else data.weight
        mixture.append((sampler, weight))
    return tuple(mixture)


def _fingerprint(datasets: Sequence[TokenDataset]) -> str:
    digests = [dataset.fingerprint() for dataset in datasets]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _require_same_text(
    now: TrainState, then: TrainState, config: TrainConfig, checkpoint: Path
) -> None:
    train = " ".join(config.train_data)
    for name, digest, former in zip((train, config.eval_data), now.texts, then.texts, strict=True):
        if digest != former:
            which = f"the evaluation part of {train}" if name == AUTO else name
            raise ConfigError(
                f"{which} was prepared again or has changed since {checkpoint} was saved; put the "
                "former text back, or write another --experiment_name"
            )
