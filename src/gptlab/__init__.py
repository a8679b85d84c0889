"""gptlab: small GPTs from scratch in PyTorch, from raw text to a trained and talking model.

The names below are the public API. They are imported when first used, so that importing gptlab
costs nothing and has no effects.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptlab.checkpoint import add_special_tokens, save
    from gptlab.config import (
        DatasetConfig,
        HeadSettings,
        ModelConfig,
        PrepareConfig,
        SamplingConfig,
        TrainConfig,
        TransformerConfig,
    )
    from gptlab.data.preparation import PrepareResult, prepare
    from gptlab.errors import GptlabError
    from gptlab.generation import Generator, Request, Scheduler
    from gptlab.interop import load
    from gptlab.model import GPT, Encoder, Transformer
    from gptlab.model.head import EmptyHead, Head
    from gptlab.model.quantize import quantize
    from gptlab.prediction import ModelWithHead
    from gptlab.tokenizer import BPETokenizer, Tokenizer, load_tokenizer, train_bpe
    from gptlab.training import TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "GPT",
    "BPETokenizer",
    "DatasetConfig",
    "EmptyHead",
    "Encoder",
    "Generator",
    "GptlabError",
    "Head",
    "HeadSettings",
    "ModelConfig",
    "ModelWithHead",
    "PrepareConfig",
    "PrepareResult",
    "Request",
    "SamplingConfig",
    "Scheduler",
    "Tokenizer",
    "TrainConfig",
    "TrainResult",
    "Transformer",
    "TransformerConfig",
    "add_special_tokens",
    "load",
    "load_tokenizer",
    "prepare",
    "quantize",
    "save",
    "train",
    "train_bpe",
]

_HOMES = {
    "gptlab.checkpoint": ("add_special_tokens", "save"),
    "gptlab.config": (
        "DatasetConfig",
        "HeadSettings",
        "ModelConfig",
        "PrepareConfig",
        "SamplingConfig",
        "TrainConfig",
        "TransformerConfig",
    ),
    "gptlab.data.preparation": ("PrepareResult", "prepare"),
    "gptlab.errors": ("GptlabError",),
    "gptlab.generation": ("Generator", "Request", "Scheduler"),
    "gptlab.interop": ("load",),
    "gptlab.model": ("GPT", "Encoder", "Transformer"),
    "gptlab.model.head": ("EmptyHead", "Head"),
    "gptlab.model.quantize": ("quantize",),
    "gptlab.prediction": ("ModelWithHead",),
    "gptlab.tokenizer": ("BPETokenizer", "Tokenizer", "load_tokenizer", "train_bpe"),
    "gptlab.training": ("TrainResult", "train"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module("gptlab.testing")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gptlab' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "testing"])
