"""Everything that a run holds while it trains, built from its settings."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from gptlab.checkpoint import load_model
from gptlab.config import (
    DatasetConfig,
    HeadSettings,
    OptimizerConfig,
    TrainConfig,
)
from gptlab.config.training import AUTO
from gptlab.data import WindowSampler
from gptlab.data.sampler import Sampler
from gptlab.errors import ConfigError
from gptlab.model import Network
from gptlab.model.architectures import config_class, make_network
from gptlab.model.head import Head
from gptlab.model.heads import add_head, head_class
from gptlab.model.stack import Stack
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.training.allocation import keep_freed_memory, prefer_huge_pages
from gptlab.training.inputs import Inputs
from gptlab.training.key_tokens import read_words
from gptlab.training.loader import BatchLoader, DeviceBatch
from gptlab.training.loss_scale import LossScale
from gptlab.training.objective import Objective
from gptlab.training.optimizers import make_optimizers
from gptlab.training.parallelism import distribute
from gptlab.training.parts import Mixture, fingerprints, make_objective, make_sampler, read_inputs
from gptlab.training.precision import Arithmetic, choose_arithmetic
from gptlab.training.pretrained import Pretrained, freeze, load_pretrained
from gptlab.training.ranks import Ranks
from gptlab.training.run_folder import Start, choose_run, continued
from gptlab.training.sinks import require_sinks
from gptlab.training.snapshot import restore
from gptlab.training.sources import Say
from gptlab.training.state import TrainState
from gptlab.training.translations import require_sacrebleu
from gptlab.training.weight_average import WeightAverage


@dataclass(frozen=True)
class Session:
    """The parts of one run; `state`, the model and the optimizers change as it goes."""

    config: TrainConfig
    start: Start
    ranks: Ranks
    inputs: Inputs
    mixture: Mixture
    sampler: Sampler
    loader: BatchLoader
    arithmetic: Arithmetic
    objective: Objective
    """The model and its loss."""
    module: nn.Module
    """The objective as it is spread over the ranks."""
    optimizers: tuple[torch.optim.Optimizer, ...]
    average: WeightAverage | None
    scale: LossScale
    state: TrainState
    total_steps: int
    parts: int = 1
    """How many parts of this process's share of a batch are computed one after another."""

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.start.folder

    @property
    def model(self) -> Network:
        """What is trained."""
        return self.objective.model

    @property
    def tokens_per_step(self) -> int:
        """What a step reads, short windows counted as full ones, and texts as of mean length."""
        examples = self.inputs.examples
        if examples is not None:
            return max(1, round(examples.train.num_tokens / self.sampler.steps_per_epoch))
        return self.config.batch_size * self.mixture[0][0].length

    def batch(self, step: int) -> DeviceBatch:
        """What this process reads at `step`, on its device."""
        return self.loader.batch(step)

    def crossed_epochs(self, number: int) -> bool:
        """Whether the step just made completed a further `number` epochs."""
        step = self.state.step
        done, before = self.sampler.epoch(step), self.sampler.epoch(step - 1)
        return int(done / number) > int(before / number)

    @property
    def digests(self) -> dict[str, str]:
        """What the tokens of each source are known by."""
        examples = self.inputs.examples
        if examples is not None:
            parts = {"train": examples.train, "evaluation": examples.evaluation}
            return {name: dataset.fingerprint() for name, dataset in parts.items()}
        train = {data.name: data.dataset.fingerprint() for data in self.inputs.train}
        held_out = {
            f"evaluation {number}": dataset.fingerprint()
            for number, dataset in enumerate(self.inputs.evaluation, start=1)
        }
        return train | held_out

    def say(self, line: str) -> None:
        """Print a line beside the progress bar, unless the run is quiet or others say it."""
        if self.ranks.is_first and not self.config.quiet:
            say(line)


def say(line: str) -> None:
    """Print a line beside a progress bar."""
    # A reader that has left or a log on a full disk is no reason to stop training.
    with suppress(OSError):
        tqdm.write(line)
        sys.stdout.flush()


def open_session(
    config: TrainConfig, ranks: Ranks | None = None, *, own_head: type[Head] | None = None
) -> Session:
    """Build a run, or rebuild the one to resume; nothing is written into its folder yet.

    Args:
        config: The run.
        ranks: The processes that share it; this one alone if None.
        own_head: The class of a head of one's own.

    Raises:
        GptlabError: A setting, a file or a device does not fit.
    """
    prefer_huge_pages()
    ranks = ranks or Ranks()
    is_silent = config.quiet or not ranks.is_first
    tell: Say = (lambda _line: None) if is_silent else say
    config, start = ranks.together(lambda: _choose(config))
    arithmetic = choose_arithmetic(ranks.device(config.device), config.precision)
    if arithmetic.device.type == "cpu":
        keep_freed_memory()
    saved_tokenizer = None if start.checkpoint is None else load_tokenizer(start.checkpoint)
    pretrained = None
    if config.init_from is not None and start.checkpoint is None:
        config, pretrained = ranks.together(partial(load_pretrained, config))
        saved_tokenizer = pretrained.tokenizer
    head = head_class(config.part(HeadSettings), own_head)
    inputs = ranks.first(lambda: read_inputs(config, head, saved=saved_tokenizer, say=tell))
    config = config.replace(
        # A trained model may have more rows than its tokenizer has ids.
        **({} if config.init_from else inputs.sizes),
        seq_len=inputs.seq_len,
        experiment_name=start.folder.name,
        precision=arithmetic.precision,
        **inputs.found,
    )
    mixture = _make_mixture(config, inputs)
    sampler = make_sampler(config, inputs, mixture)
    model = _make_model(config, start.checkpoint, pretrained, own_head=own_head)
    _require_rows(model, inputs.tokenizer)
    objective = make_objective(config, inputs, model, arithmetic)
    # On its device from here on; sharding replaces parameters, before others hold on to them.
    module = distribute(objective, mode=config.parallel, ranks=ranks, device=arithmetic.device)
    products = torch.bfloat16 if arithmetic.precision == "bf16" else torch.float32
    optimizers = make_optimizers(model, config.part(OptimizerConfig), products=products)
    average = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)
    scale = LossScale(enabled=arithmetic.precision == "fp16")
    state = TrainState(texts=fingerprints(inputs))
    if start.checkpoint is not None:
        fresh = state
        state = restore(
            start.checkpoint, model=model, optimizers=optimizers, average=average, scale=scale
        )
        _require_same_text(fresh, state, config, start.checkpoint)
    if config.resume:
        tell(_beginning(start, state))
    model.train()
    return Session(
        config=config,
        start=start,
        ranks=ranks,
        inputs=inputs,
        mixture=mixture,
        sampler=sampler,
        loader=BatchLoader(
            sampler, device=arithmetic.device, rank=ranks.rank, world_size=ranks.size
        ),
        arithmetic=arithmetic,
        objective=objective,
        module=module,
        optimizers=optimizers,
        average=average,
        scale=scale,
        state=state,
        total_steps=_total_steps(config, sampler, start=start, state=state),
    )


def _beginning(start: Start, state: TrainState) -> str:
    """What `resume` came to."""
    if start.checkpoint is not None:
        return f"going on from {start.checkpoint}, after step {state.step:,}"
    if start.origin is not None:
        return f"{start.origin} has no checkpoint to go on from: it starts afresh"
    return f"there is no run {start.folder} to go on with: it starts afresh"


def _total_steps(config: TrainConfig, sampler: Sampler, *, start: Start, state: TrainState) -> int:
    total = config.max_steps or sampler.step_at(config.epochs)
    if state.step > total:
        raise ConfigError(
            f"{start.folder} is at step {state.step:,} already, but would end at {total:,}; write "
            "a larger --max_steps or --epochs"
        )
    return total


def _choose(config: TrainConfig) -> tuple[TrainConfig, Start]:
    """Where the run writes, what it begins with, and its settings, those of its past included."""
    require_sinks(config)
    if config.eval_translations:
        require_sacrebleu()
    if config.key_tokens:
        # A file may change until the run goes on; what it says now is what the run is.
        config = config.model_copy(update={"key_tokens": read_words(config.key_tokens)})
    start = choose_run(config)
    return continued(config, start), start


def _make_model(
    config: TrainConfig,
    checkpoint: Path | None,
    pretrained: Pretrained | None,
    *,
    own_head: type[Head] | None,
) -> Network:
    """The checkpoint's model, a trained one or a new one, alike in every process, on the CPU."""
    model: Network
    if pretrained is not None:
        model = pretrained.model
    elif checkpoint is None:
        settings = config.part(config_class(config.architecture))
        model = make_network(config.architecture, settings, seed=config.seed)
    else:
        model = load_model(checkpoint, attention=config.attention, merge=False, own=own_head)
        if isinstance(model, Stack):
            freeze(model, config)
    if checkpoint is None and isinstance(model, Stack):
        add_head(model, config.part(HeadSettings), own=own_head, seed=config.seed)
    model.activation_checkpointing = config.activation_checkpointing
    return model


def _require_rows(model: Network, tokenizer: Tokenizer) -> None:
    """Refuse ids that the embedding has no rows for."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but the model {model.config.vocab_size}"
            "; give the tokenizer that it was trained with"
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
