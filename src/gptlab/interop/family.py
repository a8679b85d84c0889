"""What is said of a family of models by others.

Under which names and in which form its files keep each tensor of ours, and what the settings in its
`config.json` mean.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.interop.forms import SAME, Form

_BLOCK = re.compile(r"(?<=blocks\.)\d+(?=\.)")


@dataclass(frozen=True)
class Stored:
    """Where a family keeps a module's weight and bias, and in which form."""

    modules: tuple[str, ...]
    form: Form = SAME


@dataclass(frozen=True)
class Option:
    """What one of their settings means, and what it is where the file does not say."""

    ours: str
    default: Any


@dataclass(frozen=True)
class Rotary:
    """How a family spells rotary positions, where it does so in the old way."""

    theta: str = "rope_theta"
    share: str | None = None
    """The setting for the share of a head that turns; None where all of it does."""
    usual_share: float = 1.0


@dataclass(frozen=True)
class Family:
    """A kind of model, by its `model_type` in transformers."""

    name: str
    architecture: str
    """The class of its language model in transformers."""
    prefix: str
    """What names begin with, the head's apart; some files leave it out."""
    modules: Mapping[str, Stored]
    """Where each of our modules is."""
    ignored: str
    """Pattern of stored names that say nothing: masks and tables that follow from the settings."""
    sizes: Mapping[str, str]
    """Their settings that must be there, and ours."""
    options: Mapping[str, Option]
    """Their settings that may be missing."""
    width: str
    """Their setting for the width of the feed-forward part."""
    activation: str
    """Their setting for its non-linearity."""
    activations: Mapping[str, str]
    """Their names of it that we have, the usual ones first, and ours."""
    fixed: Mapping[str, Any]
    """Our settings that all of its models have alike."""
    demanded: Mapping[str, Any] = field(default_factory=dict)
    """Their settings of which we have one value only, which is also meant where none is given."""
    rotary: Rotary | None = None
    window: Literal["none", "all", "by layer"] = "none"
    """Whether attention may have a window: never, in all layers, or as each layer says."""
    heads_divide: bool = True
    """Whether the number of heads must divide the model's width, however wide a head is."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names under which newer files keep a tensor."""

    def stored(self, name: str) -> tuple[list[str], Form]:
        """Their names of what makes our tensor `name`, and in which form."""
        module, _, part = name.rpartition(".")
        block = _BLOCK.search(module)
        entry = self.modules[_BLOCK.sub("*", module)]
        number = block[0] if block else ""
        return [f"{other.replace('*', number)}.{part}" for other in entry.modules], entry.form

    def to_theirs(self, name: str, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        """Their tensors, by name, that say what our tensor `name` says."""
        names, form = self.stored(name)
        return dict(zip(names, form.to_theirs(tensor, config), strict=True))

    def canonical(self, name: str) -> str:
        """The name that the table has for a stored one."""
        name = self.aliases.get(name, name)
        is_whole = name.startswith(self.prefix) or name in self.stored("lm_head.weight")[0]
        return name if is_whole else f"{self.prefix}{name}"

    def is_ignored(self, name: str) -> bool:
        """Whether a stored tensor of that canonical name says nothing."""
        return re.fullmatch(self.ignored, name) is not None

    def differences(self, config: ModelConfig) -> dict[str, Any]:
        """Settings of `config` that no model of this family has, and what they would have to be."""
        bias = config.bias if config.qkv_bias is None else config.qkv_bias
        settings = {**config.model_dump(), "qkv_bias": bias}
        needed = {name: value for name, value in self.fixed.items() if settings[name] != value}
        activations = list(self.activations.values())
        if config.activation not in activations:
            needed["activation"] = activations[0]
        if self.window == "none" and config.window is not None:
            needed["window"] = None
        if self.heads_divide and config.embed_dim % config.n_heads:
            needed["embed_dim"] = -(-config.embed_dim // config.n_heads) * config.n_heads
        ours = {option.ours for option in self.options.values()}
        if "n_kv_heads" not in ours and config.kv_heads != config.n_heads:
            needed["n_kv_heads"] = config.n_heads
        is_usual = config.embed_dim == config.n_heads * config.head_dim
        if "head_width" not in ours and not is_usual:
            needed["head_width"] = None
        return needed
