"""Models of no family of transformers', in its folders: gptlab's names and settings as they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop.family import Family
from gptlab.interop.forms import SAME, Form

NAME = "gptlab"
MODULE = "modeling_gptlab.py"
_SETTINGS = "gptlab"


@dataclass(frozen=True)
class OwnFamily(Family):
    """The family whose tensors are ours, within a module of transformers'."""

    def stored(self, name: str) -> tuple[list[str], Form]:
        """The one tensor that is ours."""
        return [f"{self.prefix}{name}"], SAME


FAMILY = OwnFamily(
    name=NAME,
    architecture="GptlabForCausalLM",
    prefix="model.",
    modules={},
    ignored="",
    sizes={},
    options={},
    width="",
    activation="",
    activations={},
    fixed={},
)


def is_own(document: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of such a folder."""
    return document.get("model_type") == NAME


def read_settings(document: Mapping[str, Any]) -> ModelConfig:
    """The settings in a `config.json` of such a folder.

    Raises:
        CheckpointError: They are missing or no model's.
    """
    settings = document.get(_SETTINGS)
    if not isinstance(settings, dict):
        raise CheckpointError(f"it lacks the settings '{_SETTINGS}'; write the folder again")
    try:
        return ModelConfig(**settings)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def write_settings(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` that `read_settings` reads, without token ids.

    The names that transformers itself looks for are repeated as it calls them.
    """
    module = MODULE.removesuffix(".py")
    return {
        "model_type": NAME,
        "architectures": [FAMILY.architecture],
        "auto_map": {
            "AutoConfig": f"{module}.GptlabConfig",
            "AutoModelForCausalLM": f"{module}.{FAMILY.architecture}",
        },
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.seq_len,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.n_heads,
        "tie_word_embeddings": False,
        "use_cache": False,
        _SETTINGS: {**config.model_dump(), "attention": "auto"},
    }
