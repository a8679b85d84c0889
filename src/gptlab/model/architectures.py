"""The network that a name means."""

from gptlab.config import ModelConfig, TransformerConfig
from gptlab.config.transformer import Architecture
from gptlab.model.encoder import Encoder
from gptlab.model.gpt import GPT
from gptlab.model.network import Network
from gptlab.model.transformer import Transformer


def config_class(architecture: Architecture) -> type[ModelConfig]:
    """What an architecture's settings are."""
    return TransformerConfig if architecture == "transformer" else ModelConfig


def make_network(
    architecture: Architecture, config: ModelConfig, *, seed: int | None = None
) -> Network:
    """A new network.

    Args:
        architecture: Which.
        config: Of `config_class(architecture)`.
        seed: Seed of the initial weights; torch's global generator draws them if None.
    """
    if architecture == "transformer":
        assert isinstance(config, TransformerConfig)
        return Transformer(config, seed=seed)
    kind = Encoder if architecture == "encoder" else GPT
    return kind(config, seed=seed)
