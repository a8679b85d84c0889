"""The networks."""

from gptlab.model.attention import attend
from gptlab.model.cache import KVCache
from gptlab.model.encoder import Encoder
from gptlab.model.gpt import GPT
from gptlab.model.lora import add_lora, merged
from gptlab.model.network import Network
from gptlab.model.quantize import quantize
from gptlab.model.transformer import Transformer
from gptlab.model.vocabulary import grow_vocabulary

__all__ = [
    "GPT",
    "Encoder",
    "KVCache",
    "Network",
    "Transformer",
    "add_lora",
    "attend",
    "grow_vocabulary",
    "merged",
    "quantize",
]
