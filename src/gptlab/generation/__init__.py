"""A model's text: sampling, streaming, and the generator that a user talks to."""

from gptlab.generation.generator import Completion, Generator
from gptlab.generation.requests import Request
from gptlab.generation.rows import Token
from gptlab.generation.scheduler import Scheduler
from gptlab.generation.stream import TextStream

__all__ = ["Completion", "Generator", "Request", "Scheduler", "TextStream", "Token"]
