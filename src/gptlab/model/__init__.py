"""The networks."""

from gptlab.model.attention import attend
from gptlab.model.cache import KVCache
from gptlab.model.gpt import GPT
from gptlab.model.lora import add_lora, merged
from gptlab.model.quantize import quantize
from gptlab.model.vocabulary import grow_vocabulary

__all__ = ["GPT", "KVCache", "add_lora", "attend", "grow_vocabulary", "merged", "quantize"]
