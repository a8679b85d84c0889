"""The settings of sampling as flags, and as a session sets them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
)

from gptlab.cli.flags import CommandLine
from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError


def _biases(value: Any) -> Any:
    """What `ID:VALUE` words say, as a mapping; a mapping is one already."""
    if isinstance(value, Mapping):
        return value
    words = [value] if isinstance(value, str) else value
    for word in words:
        if ":" not in word:
            raise ConfigError(f"logit_bias is '{word}', but it should be ID:VALUE, as in 42:-1.5")
    return dict(word.split(":", 1) for word in words)


class SamplingFlags(SamplingConfig, CommandLine):
    """The fields of `SamplingConfig`; `length` is how many new tokens there are at most.

    What only a caller in Python can read, `top_logprobs`, is left out.
    """

    top_logprobs: ClassVar[None] = None  # type: ignore[misc]
    max_new_tokens: ClassVar[None] = None  # type: ignore[misc]

    length: Annotated[
        PositiveInt, Field(validation_alias=AliasChoices("length", "max_new_tokens"))
    ] = 100
    """Tokens to generate at most; a target has as many as the model has room for."""
    temperature: NonNegativeFloat = 0.8
    """Divides the logits; 0 always takes the likeliest token. It is 0 for targets, unless a flag of
    drawing is given."""
    logit_bias: Annotated[dict[NonNegativeInt, float], BeforeValidator(_biases)] = Field(
        default_factory=dict
    )
    """Added to the logits of token ids, as ID:VALUE; may be given several times."""
    json_schema: str | None = None
    """A JSON schema, or a file of one, that the whole new text fits; {} is any JSON."""
    stop_at_function: bool = False
    """End where the block of Python ends that the prompt has left open."""

    def sampling(self) -> SamplingConfig:
        """The settings as the generator takes them.

        Raises:
            ConfigError: The JSON schema is no JSON, nor a file of it.
        """
        fields = type(self).model_fields.keys() & SamplingConfig.model_fields.keys()
        values = {name: getattr(self, name) for name in fields}
        if self.json_schema is not None:
            values["json_schema"] = _schema(self.json_schema)
        return SamplingConfig(max_new_tokens=self.length, **values)


def _schema(given: str) -> str:
    is_file = not given.lstrip().startswith("{") and Path(given).is_file()
    try:
        text = Path(given).read_text(encoding="utf-8") if is_file else given
        json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"json_schema {given} is no JSON, {'' if is_file else 'nor a file, '}for {error}; "
            'write it as in \'{"type": "object"}\', or name a file of it'
        ) from None
    return text
