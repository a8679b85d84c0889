"""The networks."""

from gptlab.model.attention import attend
from gptlab.model.cache import KVCache
from gptlab.model.gpt import GPT

__all__ = ["GPT", "KVCache", "attend"]
