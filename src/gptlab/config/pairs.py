"""How a Transformer's sources and targets are found, and put together in batches."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt

from gptlab.config.settings import Settings, Source, several
from gptlab.errors import ConfigError

TOY_PAIRS_TRAIN = "./toy_data/tiny_pairs_train.tsv"
TOY_PAIRS_EVAL = "./toy_data/tiny_pairs_test.tsv"
BATCH_TOKENS = 4096
# A few words are tokens, but no two digits are: the model learns what each of them says.
SHIPPED_PAIRS: Mapping[str, Any] = MappingProxyType(
    {
        "train_data": (TOY_PAIRS_TRAIN,),
        "eval_data": TOY_PAIRS_EVAL,
        "vocab_size": 320,
        "seq_len": 64,
        "embed_dim": 128,
        "num_layers": 2,
        "n_heads": 4,
        "residual_init": "zero",
        "batch_tokens": 2048,
        "optimizer": "muon",
        "learning_rate": 5e-3,
        "momentum": 0.9,
        "warmup_steps": 50,
        "min_learning_rate": 0.0,
        "epochs": 7.6,
        "eval_steps": 400,
        "max_minutes": 5,
    }
)


class PairConfig(Settings):
    """Pairs of a source and a target."""

    src_field: Source = "source"
    """The key or the column that holds the source, where a file has rows."""
    tgt_field: Source = "target"
    """That of the target; "translation.en" is the en within translation."""
    target_data: Annotated[tuple[Source, ...], BeforeValidator(several)] = ()
    """Files of targets, if train_data has sources alone, line by line."""
    eval_target_data: Source | None = None
    """That of eval_data, likewise."""
    src_tokenizer: Source | None = None
    """A tokenizer for sources alone; theirs is that of the targets if not given, or one of
    src_vocab_size tokens that is trained on them."""
    batch_tokens: PositiveInt | None = None
    """Tokens of a batch of pairs, filling included, instead of batch_size; 4096 if neither is
    given."""
    eval_translations: NonNegativeInt = 0
    """Held-out sources whose targets are written at each evaluation, for BLEU and chrF."""


def require_files(config: PairConfig, *, eval_data: str) -> None:
    """Refuse targets without their sources.

    Raises:
        ConfigError: Targets are named, but not the `train_data` or `eval_data` that they belong to.
    """
    if config.target_data and "train_data" not in config.model_fields_set:
        raise ConfigError(
            f"target_data is {config.target_data[0]}, but nothing says where its sources are; "
            "write --train_data with their file"
        )
    if config.eval_target_data is not None and eval_data == "auto":
        raise ConfigError(
            f"eval_target_data is {config.eval_target_data}, but nothing says where its sources "
            "are; write --eval_data with their file"
        )
    if config.target_data and eval_data != "auto" and config.eval_target_data is None:
        raise ConfigError(
            f"train_data and target_data are parallel files, but {eval_data} stands alone; write "
            "--eval_target_data with the file of its targets"
        )
