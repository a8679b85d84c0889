"""Everything that a run holds while it trains, built from its settings."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gptlab.checkpoint import load_model, verify
from gptlab.config import DatasetConfig, ModelConfig, OptimizerConfig, TrainConfig
from gptlab.config.training import AUTO
from gptlab.data import WindowSampler
from gptlab.errors import ConfigError
from gptlab.model import GPT
from gptlab.tokenizer import load_tokenizer
from gptlab.training.inputs import Inputs, Say, load_inputs
from gptlab.training.metrics import summary_writer
from gptlab.training.optimizers import make_optimizer
from gptlab.training.precision import Arithmetic, choose_arithmetic
from gptlab.training.run_folder import choose_run, continued, has_settings, resumable_checkpoint
from gptlab.training.state import TrainState, restore_state


@dataclass(frozen=True)
class Session:
    """The parts of one run; `state`, the model and the optimizer change as it goes."""

    config: TrainConfig
    folder: Path
    inputs: Inputs
    sampler: WindowSampler
    arithmetic: Arithmetic
    model: GPT
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    state: TrainState
    total_steps: int

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `step` on the device, (B, T) int64 each."""
        batch = self.sampler.batch(step)
        device = self.arithmetic.device
        return torch.from_numpy(batch.inputs).to(device), torch.from_numpy(batch.targets).to(device)

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
        experiment_name=folder.name,
        precision=arithmetic.precision,
    )
    dataset = config.part(DatasetConfig)
    sampler = WindowSampler(inputs.train, seq_len=config.seq_len, **dataset.model_dump())
    if checkpoint is None:
        model = GPT(config.part(ModelConfig), seed=config.seed).to(arithmetic.device)
    else:
        model = load_model(checkpoint, device=arithmetic.device, attention=config.attention)
    optimizer = make_optimizer(model, config.part(OptimizerConfig))
    scaler = arithmetic.scaler()
    state = TrainState(texts=[inputs.train.fingerprint(), inputs.evaluation.fingerprint()])
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
        sampler=sampler,
        arithmetic=arithmetic,
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        state=state,
        total_steps=config.max_steps or sampler.step_at(config.epochs),
    )


def _require_same_text(
    now: TrainState, then: TrainState, config: TrainConfig, checkpoint: Path
) -> None:
    for name, digest, former in zip(
        (config.train_data, config.eval_data), now.texts, then.texts, strict=True
    ):
        if digest != former:
            which = f"the evaluation part of {config.train_data}" if name == AUTO else name
            raise ConfigError(
                f"{which} has changed since {checkpoint} was saved; put the former text back, "
                "or write another --experiment_name"
            )
