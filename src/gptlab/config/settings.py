"""The base of every settings class: frozen, strict about names, one-line errors."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from gptlab.config.presets import PRESETS, layered
from gptlab.errors import ConfigError

_FEW = 12

Part = TypeVar("Part", bound="Settings")

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Source = Annotated[str, Field(min_length=1)]


def several(value: Any) -> Any:
    """Several texts, where there may be one."""
    return (value,) if isinstance(value, str) else value


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown `name`: the most similar known one, or all if they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names)}" if len(names) <= _FEW else "--help lists them all"


class Settings(BaseModel):
    """Frozen settings that refuse unknown names and explain a bad value in one line.

    Raises:
        ConfigError: A name is unknown, or a value is of the wrong type or out of range.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """Settings of preset `name`, with `overrides` on top; keys of other parts are left out."""
        values = {key: value for key, value in preset(name).items() if key in cls.model_fields}
        return cls(**layered(values, overrides))

    def part(self, kind: type[Part]) -> Part:
        """The settings that one component receives: just the fields that `kind` has."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})

    def replace(self, **changes: Any) -> Self:
        """A validated copy with `changes`."""
        return type(self)(**{**self.model_dump(), **changes})

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise ConfigError(_first_problem(error, cls)) from None


def preset(name: str) -> dict[str, Any]:
    """The values of preset `name`.

    Raises:
        ConfigError: There is no such preset.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"there is no preset '{name}'; {nearest(str(name), PRESETS)}")
    return dict(PRESETS[name])


def _first_problem(error: ValidationError, cls: type[Settings]) -> str:
    problem = error.errors(include_url=False)[0]
    # Behind the name stand a place in a list, or a kind of value that there may be.
    places = [str(part) for part in problem["loc"][1:] if isinstance(part, int)]
    name = ".".join([*map(str, problem["loc"][:1]), *places]) or cls.__name__
    if problem["type"] == "extra_forbidden":
        remedy = nearest(name, cls.model_fields)
        if isinstance(problem["input"], dict):
            remedy = "settings are flat: write its lines without the table's name"
        return f"there is no setting '{name}'; {remedy}"
    messages = [
        other["msg"].removeprefix("Input should ").partition(", unable")[0]
        for other in error.errors(include_url=False)
        if other["loc"][:1] == problem["loc"][:1] and other["input"] == problem["input"]
    ]
    if not problem["msg"].startswith("Input should "):
        message = messages[0][:1].lower() + messages[0][1:]
        return f"{name} is {problem['input']!r}, but {message}"
    return f"{name} is {problem['input']!r}, but it should {' or '.join(messages)}"
