"""What a training run reads, does, and leaves behind."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler

from gptlab.config.model import ModelConfig, Share
from gptlab.config.settings import Seed, Settings
from gptlab.errors import ConfigError

AUTO = "auto"
TOY_TOKENIZER = "./toy_data/tiny_sp"
TOY_TRAIN = "./toy_data/tiny_sp_train.txt"
TOY_EVAL = "./toy_data/tiny_sp_test.txt"
SHIPPED_RUN: Mapping[str, Any] = MappingProxyType(
    {
        "learning_rate": 2e-3,
        "warmup_steps": 5,
        "eval_steps": 10,
        "patience": 3,
        "max_minutes": 4,
    }
)

Source = Annotated[str, Field(min_length=1)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
TokenizerType = Literal["default", "tiktoken", "sentencepiece"]


def _folder_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(
            f"experiment_name is '{name}', but it names a folder; "
            "use letters, digits, '.', '_', '+' and '-', beginning with a letter or a digit"
        )
    return name


def _several(value: Any) -> Any:
    """Several texts, where there may be one."""
    return (value,) if isinstance(value, str) else value


Sources = Annotated[tuple[Source, ...], Field(min_length=1), BeforeValidator(_several)]


class DatasetConfig(Settings):
    """How windows of tokens become batches."""

    batch_size: PositiveInt = 64
    """Windows in a batch."""
    shuffle: bool = True
    """Draw the windows of an epoch in random order, anew each epoch."""
    seed: Seed = 0
    """Seed of initial weights, order of data, and dropout."""
    document_mask: bool = False
    """Let a token see its own document alone, where a window holds parts of several."""
    reset_positions: bool = False
    """Count positions from the start of each document in a window."""


class OptimizerConfig(Settings):
    """AdamW and its learning rate over the run."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    min_learning_rate: NonNegativeFloat | None = None
    """Learning rate at the end of the run; a tenth of the peak if not given."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up; 100, or a tenth of a run under 1,000 steps, if not given."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay, of matrices only."""
    beta1: Share = 0.9
    """AdamW's decay of the first moment."""
    beta2: Share = 0.95
    """AdamW's decay of the second moment."""
    grad_clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 for no limit."""


class TrainConfig(OptimizerConfig, DatasetConfig, ModelConfig):
    """A training run, whole. Flat, so that a flag, a line of TOML and a field have one name.

    Without `train_data` the run is on the shipped stories, with evaluations close enough for
    early stopping to end it, after four minutes at the latest (`SHIPPED_RUN`). With `train_data`
    alone, the tokenizer is trained on it and the evaluation part is split off it ('auto').
    """

    train_data: Sources = (TOY_TRAIN,)
    """Text files, folders, prepared datasets; with weights as in a.txt:0.7 b.txt:0.3."""
    eval_data: Source = TOY_EVAL
    """One of these for evaluation; 'auto' takes what is held out of train_data."""
    field: Source = "text"
    """The key or the column that holds the text, where a file has rows."""
    errors: Literal["strict", "replace"] = "strict"
    """What is not UTF-8: strict refuses the file, replace reads it as U+FFFD."""
    dev_size: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of a text that 'auto' holds out for evaluation."""
    tokenizer: Source = TOY_TOKENIZER
    """A tokenizer's folder, name or .model file; 'auto' takes a dataset's own, or trains one."""
    tokenizer_type: TokenizerType = "default"
    """Kind of tokenizer."""
    bpe_dropout: Share = 0.0
    """Share of merges left out at random when the training text is encoded, which is done once."""
    epochs: PositiveFloat = 100
    """Passes over the training windows."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps; overrides epochs."""
    max_minutes: PositiveFloat | None = None
    """Minutes of training after which the run ends, whatever its steps."""
    experiment_name: Annotated[str | None, AfterValidator(_folder_name)] = None
    """Name of the run's folder; the data's name, numbered, if not given."""
    runs_dir: str = "runs"
    """Folder that holds all runs."""
    resume: bool = False
    """Go on from the run's newest checkpoint; start afresh where there is none."""
    overwrite: bool = False
    """Replace a run of the same name."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; 'auto' takes a GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic of matrix products; 'auto' is bf16 where the processor has it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to use torch.compile; 'auto' does on a GPU and falls back."""
    eval_strategy: Literal["steps", "epoch", "no"] = "steps"
    """When to evaluate beside the end of the run."""
    eval_steps: PositiveInt = 500
    """Steps between evaluations; fewer on the shipped stories."""
    patience: NonNegativeInt = 5
    """Evaluations without improvement that end the run; 0 for no early stopping."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints, instead of epochs."""
    save_every_epochs: PositiveInt = 5
    """Epochs between checkpoints."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    sample_length: NonNegativeInt = 60
    """Tokens of the sample shown at each evaluation; 0 for none."""
    tensorboard: bool = False
    """Write TensorBoard events into the run."""
    quiet: bool = False
    """Print errors and warnings only."""

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        own_data = {"tokenizer": AUTO, "eval_data": AUTO}
        implied: Mapping[str, Any] = own_data if "train_data" in data else SHIPPED_RUN
        config = handler({**implied, **data})
        # Only what the caller gave counts as given: resuming compares that with the saved run.
        config.model_fields_set.difference_update(implied.keys() - data.keys())
        if config.resume and config.overwrite:
            raise ConfigError("--resume and --overwrite exclude each other; write one of them")
        return config
