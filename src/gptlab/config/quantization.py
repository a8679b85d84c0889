"""In how many bits weights are kept."""

from typing import Literal

from pydantic import PositiveInt

from gptlab.config.settings import Settings


class Quantization(Settings):
    """Bits of a weight, and how many weights share a scale."""

    bits: Literal[8, 4] = 8
    """Bits a weight."""
    group_size: PositiveInt | None = None
    """Weights that share a scale; a row with 8 bits and about 32 with 4 if not given."""
