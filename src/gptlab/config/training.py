"""What a training run reads, does, and leaves behind."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler

from gptlab.config.architectures import require_used
from gptlab.config.chat import MESSAGES, ChatConfig
from gptlab.config.fine_tuning import FineTuneConfig
from gptlab.config.heads import FIELDS_OF_WORDS, LANGUAGE_MODEL, OF_NEXT_TOKENS, HeadConfig
from gptlab.config.learning import LossConfig, OptimizerConfig
from gptlab.config.masking import MaskConfig
from gptlab.config.model import Share
from gptlab.config.pairs import BATCH_TOKENS, SHIPPED_PAIRS, PairConfig, require_files
from gptlab.config.presets import implied_by, superseded_by
from gptlab.config.settings import Seed, Settings, Source, several
from gptlab.config.transformer import Architecture, TransformerConfig
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

Precision = Literal["auto", "fp32", "bf16", "fp16"]
TokenizerType = Literal["default", "tiktoken", "sentencepiece"]


def _folder_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(
            f"experiment_name is '{name}', but it names a folder; "
            "use letters, digits, '.', '_', '+' and '-', beginning with a letter or a digit"
        )
    return name


def _switch_or_path(value: Any) -> Any:
    """A switch as a command line spells it, or what it names instead."""
    switches = {"true": True, "false": False}
    return switches.get(value.lower(), value) if isinstance(value, str) else value


Sources = Annotated[tuple[Source, ...], Field(min_length=1), BeforeValidator(several)]


class DatasetConfig(Settings):
    """How windows of tokens become batches."""

    batch_size: PositiveInt = 64
    """Windows in a batch."""
    shuffle: bool = True
    """Draw the windows of an epoch in random order, anew each epoch."""
    seed: Seed = 0
    """Seed of initial weights, order of data, and dropout."""
    document_mask: bool | None = None
    """Let a token see its own document alone, where a window holds parts of several; so it is
    among conversations if not given."""
    reset_positions: bool | None = None
    """Count positions from the start of each document in a window; likewise."""


class TrainConfig(
    OptimizerConfig,
    LossConfig,
    HeadConfig,
    DatasetConfig,
    FineTuneConfig,
    ChatConfig,
    MaskConfig,
    PairConfig,
    TransformerConfig,
):
    """A training run, whole. Flat, so that a flag, a line of TOML and a field have one name.

    Without `train_data` the run is on the shipped stories, with evaluations close enough for
    early stopping to end it, after four minutes at the latest (`SHIPPED_RUN`). With `train_data`
    alone, the tokenizer is trained on it and the evaluation part is split off it ('auto').
    A Transformer learns from pairs instead, without `train_data` from the shipped ones. An encoder
    learns to find hidden tokens of texts.
    """

    architecture: Architecture = "gpt"
    """gpt, transformer (encoder and decoder, of pairs), or encoder (of masked tokens)."""

    train_data: Sources = (TOY_TRAIN,)
    """Text files, folders, prepared datasets; with weights as in a.txt:0.7 b.txt:0.3."""
    eval_data: Source = TOY_EVAL
    """One of these for evaluation; 'auto' takes what is held out of train_data."""
    field: Source = "text"
    """The key or the column that holds the text, where a file has rows; messages for those of
    conversations."""
    errors: Literal["strict", "replace"] = "strict"
    """What is not UTF-8: strict refuses the file, replace reads it as U+FFFD."""
    dev_size: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of a text that 'auto' holds out for evaluation."""
    tokenizer: Source = TOY_TOKENIZER
    """A tokenizer's folder, name or .model file; 'auto' takes the model's or the dataset's own, or
    trains one."""
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
    resume: Annotated[bool | Source, BeforeValidator(_switch_or_path)] = False
    """Go on from the run's newest checkpoint, or start where there is none; or from this one."""
    overwrite: bool = False
    """Replace a run of the same name; with the checkpoint to resume, what came after that."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; 'auto' takes a GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic of matrix products; 'auto' is bf16 where the processor has it."""
    deterministic: bool = False
    """Use kernels alone that give the same bits each time, on a GPU too."""
    gradient_accumulation_steps: PositiveInt | None = None
    """Parts in which a batch is computed, one by one, to save memory; the batch is the same."""
    micro_batch_size: PositiveInt | Literal["auto"] | None = None
    """Windows computed at once, on each device; 'auto' finds the most that fit into memory."""
    activation_checkpointing: bool = False
    """Compute each block twice instead of keeping what is in it: less memory, more time."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: a copy of the model on each device, or a part of it."""
    max_bad_steps: PositiveInt = 5
    """Steps in a row, left out because their numbers are not finite, that end the run."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to use torch.compile; 'auto': on a GPU, and on a CPU where it saves time."""
    eval_strategy: Literal["steps", "epoch", "no"] = "steps"
    """When to evaluate beside the end of the run."""
    eval_steps: PositiveInt = 500
    """Steps between evaluations; fewer on the shipped stories."""
    patience: NonNegativeInt = 5
    """Evaluations without improvement that end the run; 0 for no early stopping."""
    save_strategy: Literal["auto", "steps", "epoch", "no"] = "auto"
    """When to keep a checkpoint; 'no' saves at the end alone, 'auto' is steps with save_every."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints, instead of epochs."""
    save_every_epochs: PositiveInt = 5
    """Epochs between checkpoints."""
    keep_last: PositiveInt | None = None
    """How many of these to keep beside the best and the last; all if not given."""
    log_strategy: Literal["steps", "epoch", "no"] = "steps"
    """When to write a line of metrics.jsonl on training."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    sample_length: NonNegativeInt = 60
    """Tokens of the sample shown at each evaluation; 0 for none."""
    tensorboard: bool = False
    """Write TensorBoard events into the run."""
    wandb: bool = False
    """Send metrics to Weights & Biases."""
    quiet: bool = False
    """Print errors and warnings only."""

    @property
    def learns_masks(self) -> bool:
        """Whether the run is of an encoder that learns to find hidden tokens."""
        return self.architecture == "encoder" and self.head == LANGUAGE_MODEL

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        own_data = {"tokenizer": AUTO, "eval_data": AUTO}
        usual = own_data if "train_data" in data else SHIPPED_RUN
        if data.get("architecture") == "transformer":
            shipped = {} if "train_data" in data else SHIPPED_PAIRS
            usual = {**own_data, "batch_tokens": BATCH_TOKENS, **shipped}
        gone = superseded_by(data)
        implied = {name: value for name, value in usual.items() if name not in gone}
        implied |= implied_by(data)
        if data.get("init_from") is not None:
            implied["tokenizer"] = AUTO
        if data.get("chat_template") is not None:
            implied["field"] = MESSAGES
        if data.get("head") == "token_classification":
            implied |= FIELDS_OF_WORDS
        config = handler({**implied, **data})
        # Only what the caller gave counts as given: resuming compares that with the saved run.
        config.model_fields_set.difference_update(implied.keys() - data.keys())
        config._check_fit()
        return config

    def _check_fit(self) -> None:
        # The run to go on with knows its architecture, which is not always given again.
        if not self.resume or "architecture" in self.model_fields_set:
            require_used(self, self.architecture)
        if self.resume is True and self.overwrite:
            raise ConfigError("--resume and --overwrite exclude each other; write one of them")
        if not self.resume:
            require_files(self, eval_data=self.eval_data)
            # The run to go on with knows its model.
            self.require_model()
        if self.save_strategy == "steps" and self.save_every is None:
            raise ConfigError("save_strategy is 'steps'; say how many with --save_every")
        if self.save_strategy in ("epoch", "no") and self.save_every is not None:
            raise ConfigError(
                f"save_strategy is '{self.save_strategy}', but save_every is {self.save_every} "
                "steps; leave one of them out"
            )
        minimum = self.min_learning_rate
        if minimum is not None and minimum > self.learning_rate:
            raise ConfigError(
                f"min_learning_rate is {minimum:g}, above the learning_rate of "
                f"{self.learning_rate:g}; write a lower one"
            )
        if not self.key_tokens and (self.key_weight is not None or self.key_mode != "token"):
            raise ConfigError("key_weight and key_mode do nothing without key_tokens; write some")
        if self.head != LANGUAGE_MODEL:
            self._check_head()
        if self.gradient_accumulation_steps and self.micro_batch_size:
            raise ConfigError(
                "gradient_accumulation_steps and micro_batch_size say the same thing in two ways; "
                "leave one of them out"
            )

    def _check_head(self) -> None:
        if self.train_data == (TOY_TRAIN,):
            raise ConfigError(
                f"a {self.head} head learns from labels, which the shipped stories lack; write "
                "--train_data with files of rows"
            )
        if self.mask_share != MaskConfig.model_fields["mask_share"].default:
            raise ConfigError(
                f"mask_share does nothing with --head {self.head}, which reads all of a text; "
                "leave it out"
            )
        for name in OF_NEXT_TOKENS:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(
                    f"{name} is about next tokens and does nothing with --head {self.head}; leave "
                    "it out"
                )
