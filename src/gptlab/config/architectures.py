"""Which settings of a run say nothing about which architecture."""

from collections.abc import Mapping
from types import MappingProxyType

from gptlab.config.settings import Settings
from gptlab.config.transformer import Architecture
from gptlab.errors import ConfigError

_OF_PAIRS = (
    "src_field",
    "tgt_field",
    "target_data",
    "eval_target_data",
    "src_tokenizer",
    "src_vocab_size",
    "encoder_layers",
    "share_embeddings",
    "batch_tokens",
    "eval_translations",
)
_OF_TEXTS = (
    "bpe_dropout",
    "chat_template",
    "document_mask",
    "field",
    "head",
    "lora_rank",
    "lower_case",
    "micro_batch_size",
    "reset_positions",
    "special_tokens",
    "train_last_layers",
    "window",
)
_OF_WRITERS = ("chat_template", "document_mask", "key_tokens", "reset_positions", "window")
_IDLE: Mapping[Architecture, tuple[str, ...]] = MappingProxyType(
    {
        "gpt": (*_OF_PAIRS, "mask_share"),
        "encoder": (*_OF_PAIRS, *_OF_WRITERS),
        "transformer": (*_OF_TEXTS, "mask_share"),
    }
)


def require_used(config: Settings, architecture: Architecture) -> None:
    """Refuse settings that would do nothing with an architecture.

    Raises:
        ConfigError: There is one that is not as it is by default.
    """
    for name in _IDLE[architecture]:
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ConfigError(f"{name} is not for --architecture {architecture}; leave it out")
