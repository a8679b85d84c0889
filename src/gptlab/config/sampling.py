"""How text is drawn from a model."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from gptlab.config.settings import Seed, Settings


class SamplingConfig(Settings):
    """How new tokens are drawn, and when to stop."""

    max_new_tokens: PositiveInt = 100
    """Tokens to generate at most."""
    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Draw from the k likeliest tokens."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Draw from the smallest set of tokens that holds this much probability."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Drop tokens less likely than this share of the likeliest one."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, makes tokens that occurred in the context less likely."""
    seed: Seed | None = None
    """Makes the draw reproducible; None draws anew each time."""
    stop: tuple[str, ...] = ()
    """Texts that end the generation; they are not part of the result."""
    ignore_eos: bool = False
    """Go on after an end-of-sequence token."""
    overflow: Literal["slide", "error"] = "slide"
    """Beyond seq_len: go on with the newer half of the context, or raise."""
