"""Which models can be written for other tools."""

from gptlab.errors import ConfigError
from gptlab.model import GPT, Network


def require_exportable(model: Network) -> None:
    """Refuse a model that no other tool reads as it is.

    Raises:
        ConfigError: It is no GPT of its own, is quantized, has adapters, or a head in the place of
            next-token logits.
    """
    if not isinstance(model, GPT) or model.is_part:
        raise ConfigError(
            f"the model is of architecture '{model.architecture}', which is not written for other "
            "tools; export a GPT"
        )
    if model.quantization is not None:
        raise ConfigError(
            f"the model has {model.quantization.bits} bits a weight, as gptlab alone reads them; "
            "export the one it was made from"
        )
    if model.lora is not None:
        raise ConfigError(
            "the model has adapters beside its weights; merge them first, with gptlab.model.merged"
        )
    if model.head is not None:
        raise ConfigError(
            f"the model has a {model.head.settings.head} head, which other tools don't know; "
            "export a language model"
        )
