"""A model's text: sampling, streaming, and the generator that a user talks to."""

from gptlab.generation.generator import Completion, Generator
from gptlab.generation.rows import Token
from gptlab.generation.stream import TextStream

__all__ = ["Completion", "Generator", "TextStream", "Token"]
