"""A model's text: sampling, streaming, and the generator that a user talks to."""

from gptlab.generation.generator import Generator
from gptlab.generation.stream import TextStream

__all__ = ["Generator", "TextStream"]
