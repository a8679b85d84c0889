"""A model's text: sampling, streaming, and the generator that a user talks to."""

from gptlab.generation.completions import Completion
from gptlab.generation.drafts import Drafter, LookupDrafter, ModelDrafter
from gptlab.generation.generator import Generator
from gptlab.generation.requests import Request
from gptlab.generation.rows import Token
from gptlab.generation.scheduler import Scheduler
from gptlab.generation.speculative import Acceptance
from gptlab.generation.stream import TextStream

__all__ = [
    "Acceptance",
    "Completion",
    "Drafter",
    "Generator",
    "LookupDrafter",
    "ModelDrafter",
    "Request",
    "Scheduler",
    "TextStream",
    "Token",
]
