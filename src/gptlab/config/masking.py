"""How much an encoder has to find of the texts that it learns from."""

from typing import Annotated

from pydantic import Field

from gptlab.config.settings import Settings


class MaskConfig(Settings):
    """Masked tokens."""

    mask_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of an encoder's tokens that are hidden from it, for it to find."""
