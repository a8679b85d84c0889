"""The network that a name means."""

from collections.abc import Mapping
from typing import Any

from gptlab.config import ModelConfig, TransformerConfig
from gptlab.config.transformer import Architecture
from gptlab.model.encoder import Encoder
from gptlab.model.gpt import GPT
from gptlab.model.network import Network
from gptlab.model.transformer import Transformer


def make_network(
    architecture: Architecture, settings: Mapping[str, Any], *, seed: int | None = None
) -> Network:
    """A network of that architecture.

    Args:
        architecture: Which.
        settings: Fields of its configuration, by name.
        seed: Seed of the initial weights; torch's global generator draws them if None.

    Raises:
        ConfigError: A setting is unknown or does not fit.
    """
    if architecture == "transformer":
        return Transformer(TransformerConfig(**settings), seed=seed)
    kind = Encoder if architecture == "encoder" else GPT
    return kind(ModelConfig(**settings), seed=seed)
