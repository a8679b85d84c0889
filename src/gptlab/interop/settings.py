"""A family's `config.json` as settings of ours, and back."""

from collections.abc import Mapping
from typing import Any

from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop.family import Family
from gptlab.interop.rotary import read_rotary, write_rotary

# Of any family, what would make other numbers of the same weights.
_NEVER = {"quantization_config": None, "is_encoder_decoder": False}


def read_settings(family: Family, document: Mapping[str, Any]) -> ModelConfig:
    """The settings that a `config.json` of `family` means.

    Raises:
        CheckpointError: One is missing or of a wrong kind, or says what no model of ours computes.
    """
    _refuse(family, document)
    try:
        return ModelConfig(**_plain(_values(family, document)))
    except (ConfigError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # Numbers where there should be others, or something else than numbers.
        raise CheckpointError(f"it makes no model: {error}") from None


def _values(family: Family, document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ours that `document` means, not held against anything yet."""
    values: dict[str, Any] = {**family.fixed}
    for theirs, ours in family.sizes.items():
        if theirs not in document:
            raise CheckpointError(f"it lacks the setting {theirs}; use a complete config.json")
        values[ours] = document[theirs]
    # The first of those that mean the same counts.
    for theirs, option in reversed(list(family.options.items())):
        values[option.ours] = document.get(theirs, option.default)
    values["activation"] = _activation(family, document)
    if family.window != "none":
        values["window"] = _window(family, document)
    if family.rotary is not None:
        values |= read_rotary(family.rotary, document)
    width = document.get(family.width) or 4 * values["embed_dim"]
    return {**values, "expansion_factor": width / values["embed_dim"]}


def write_settings(family: Family, config: ModelConfig) -> dict[str, Any]:
    """The `config.json` by which `family` means the settings of `config`, without its token ids."""
    actual = {"n_kv_heads": config.kv_heads, "head_width": config.head_dim}
    values = {**config.model_dump(), **actual}
    document: dict[str, Any] = {"model_type": family.name, "architectures": [family.architecture]}
    document |= {theirs: values[ours] for theirs, ours in family.sizes.items()}
    document |= {theirs: values[option.ours] for theirs, option in family.options.items()}
    document[family.width] = config.hidden_dim
    names = [theirs for theirs, ours in family.activations.items() if ours == config.activation]
    document[family.activation] = names[0]
    document |= family.demanded
    if family.window == "all":
        document["sliding_window"] = config.window
    if family.window == "by layer":
        document |= _windows(config)
    if family.rotary is not None:
        document |= write_rotary(family.rotary, config)
    return document


def refused(name: str, value: object, known: object) -> CheckpointError:
    """What to say of a setting that no model of ours has."""
    return CheckpointError(
        f"its setting {name} is {value!r}, which gptlab does not compute; supported is {known}"
    )


def _refuse(family: Family, document: Mapping[str, Any]) -> None:
    for name, value in {**_NEVER, **family.demanded}.items():
        # A setting that is there and null is one that is not used.
        if document.get(name) is not None and document[name] != value:
            raise refused(name, document[name], repr(value))


def _activation(family: Family, document: Mapping[str, Any]) -> str:
    usual = next(iter(family.activations))
    name = document.get(family.activation, usual)
    if name not in family.activations:
        raise refused(family.activation, name, ", ".join(family.activations))
    return family.activations[name]


def _window(family: Family, document: Mapping[str, Any]) -> int | None:
    """The window of all layers alike."""
    if family.window == "all":
        window: int | None = document.get("sliding_window", 4096)
        return window
    layers = document["num_hidden_layers"]
    window = document.get("sliding_window", 4096)
    if not document.get("use_sliding_window", False) or window is None:
        window = None
    first = document.get("max_window_layers", 28) if window is not None else layers
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    kinds = document.get("layer_types") or kinds
    if set(kinds) <= {"full_attention"}:
        return None
    if set(kinds) == {"sliding_attention"} and window is not None:
        return window
    raise refused("layer_types", sorted(set(kinds)), "one kind of attention in all layers")


def _windows(config: ModelConfig) -> dict[str, Any]:
    kind = "full_attention" if config.window is None else "sliding_attention"
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": config.num_layers if config.window is None else 0,
        "layer_types": [kind] * config.num_layers,
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without what says no more than others do."""
    if values["qkv_bias"] == values["bias"]:
        values["qkv_bias"] = None
    if values.get("n_kv_heads") == values["n_heads"]:
        values["n_kv_heads"] = None
    width = values.get("head_width")
    if width is not None and width * values["n_heads"] == values["embed_dim"]:
        values["head_width"] = None
    return values
