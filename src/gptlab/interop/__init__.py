"""Models of other tools, in and out."""

from gptlab.interop.huggingface import read_huggingface, write_huggingface
from gptlab.interop.loading import find_model, load, load_gpt
from gptlab.interop.nanogpt import read_nanogpt

__all__ = [
    "find_model",
    "load",
    "load_gpt",
    "read_huggingface",
    "read_nanogpt",
    "write_huggingface",
]
