"""How text is drawn from a model."""

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from gptlab.config.settings import Seed, Settings, several

Probability = Annotated[float, Field(gt=0.0, le=1.0)]
Texts = Annotated[tuple[str, ...], BeforeValidator(several)]


class SamplingConfig(Settings):
    """How new tokens are drawn, and when to stop."""

    max_new_tokens: PositiveInt = 100
    """Tokens to generate at most."""
    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Draw from the k likeliest tokens."""
    top_p: Probability | None = None
    """Draw from the smallest set of tokens that holds this much probability."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Drop tokens less likely than this share of the likeliest one."""
    typical_p: Probability | None = None
    """Draw from the tokens of most typical information that hold this much probability."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, makes tokens that occurred in the context less likely."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that were generated already."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of generated tokens, once for each time."""
    logit_bias: dict[NonNegativeInt, float] = Field(default_factory=dict)
    """Added to the logits of these token ids."""
    banned_words: Texts = ()
    """Texts that are never generated as the words they are."""
    regex: str | None = None
    """A regular expression that the whole new text matches."""
    json_schema: str | None = None
    """A JSON schema, as JSON, that the whole new text fits; {} is any JSON."""
    valid_python: bool = False
    """Whether prompt and new text are always the beginning of a Python program."""
    seed: Seed | None = None
    """Makes the draw reproducible; None draws anew each time."""
    stop: Texts = ()
    """Texts that end the generation; they are not part of the result."""
    ignore_eos: bool = False
    """Go on after an end-of-sequence token."""
    top_logprobs: NonNegativeInt | None = None
    """Log-probabilities to report a token: its own, and those of so many of the likeliest ones."""
    overflow: Literal["slide", "truncate", "error"] = "slide"
    """Beyond seq_len: read the newer half of the context anew, keep its part of the cache, or
    raise."""
