"""Checkpoints of nanoGPT (https://github.com/karpathy/nanoGPT): `.pt` files.

It is a pickle, and read by `weights_only` alone, which makes tensors and calls nothing.
"""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gptlab.checkpoint.state_dict import load_pickle
from gptlab.config import ModelConfig
from gptlab.config.model import AttentionBackend
from gptlab.errors import CheckpointError, ConfigError, TokenizerError
from gptlab.interop.families import FAMILIES
from gptlab.interop.forms import SAME
from gptlab.interop.reading import read_model
from gptlab.interop.stored import StoredTensors
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer, load_tokenizer

_COMPILED = "_orig_mod."
_GPT2_TOKENIZER = "tiktoken:gpt2"
# GPT-2's own, and the next multiple of 64, which nanoGPT pads it to.
_GPT2_SIZES = (50_257, 50_304)
_SIZES = MappingProxyType(
    {
        "vocab_size": "vocab_size",
        "block_size": "seq_len",
        "n_embd": "embed_dim",
        "n_layer": "num_layers",
        "n_head": "n_heads",
    }
)
# GPT-2's names, with matrices the other way round: nanoGPT has plain linear layers.
_FAMILY = replace(
    FAMILIES["gpt2"],
    name="nanoGPT",
    modules={ours: replace(stored, form=SAME) for ours, stored in FAMILIES["gpt2"].modules.items()},
)


def is_nanogpt(path: Path) -> bool:
    """Whether the file at `path` is a checkpoint of nanoGPT."""
    try:
        return _is_one(load_pickle(path, mmap=True))
    except CheckpointError:
        return False


def read_nanogpt(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
) -> GPT:
    """The model in a checkpoint of nanoGPT, in evaluation mode.

    Raises:
        CheckpointError: The file is damaged or something else, is a pickle of more than tensors
            and plain values, or its weights and its settings contradict.
    """
    path = Path(path)
    # Mapped, so that the optimizer's state, two thirds of it, is left alone.
    content = load_pickle(path, mmap=True)
    if not _is_one(content):
        raise CheckpointError(
            f"{path} is no checkpoint of nanoGPT, which has 'model' and 'model_args'; give one, a "
            "folder of transformers, or a checkpoint of gptlab"
        )
    try:
        config = _settings(content["model_args"]).replace(attention=attention)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    tensors: dict[str, Tensor] = {
        name.removeprefix(_COMPILED): tensor for name, tensor in content["model"].items()
    }
    likes = {name: tensor.to("meta") for name, tensor in tensors.items()}

    def take(name: str) -> Tensor:
        return tensors.pop(name).clone(memory_format=torch.contiguous_format)

    stored = StoredTensors(likes, read=take, look=take, source=path)
    return read_model(_FAMILY, config, stored, settings="model_args", device=device)


def nanogpt_tokenizer(model: GPT, path: str | Path) -> Tokenizer:
    """The tokenizer of a nanoGPT model that brings none: GPT-2's, if the vocabulary has its size.

    Raises:
        CheckpointError: It has not, or GPT-2's is not to be had here.
    """
    size = model.config.vocab_size
    if size not in _GPT2_SIZES:
        raise CheckpointError(
            f"{path} has no tokenizer, and its vocabulary of {size} is not GPT-2's; name the "
            "tokenizer that it was trained with"
        )
    try:
        return load_tokenizer(_GPT2_TOKENIZER)
    except TokenizerError as error:
        raise CheckpointError(
            f"{path} needs GPT-2's tokenizer: {error}; or name a folder that holds it as tokenizer"
        ) from None


def _is_one(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("model_args"), dict)
        and isinstance(content.get("model"), dict)
        and all(isinstance(tensor, Tensor) for tensor in content["model"].values())
    )


def _settings(given: dict[str, Any]) -> ModelConfig:
    unknown = sorted(given.keys() - _SIZES.keys() - {"bias", "dropout"})
    missing = sorted(_SIZES.keys() - given.keys())
    if unknown or missing:
        problem = f"have the unknown '{unknown[0]}'" if unknown else f"lack '{missing[0]}'"
        raise ConfigError(
            f"its model_args {problem}, so it is of another program than nanoGPT; convert it there"
        )
    return ModelConfig(
        **{ours: given[theirs] for theirs, ours in _SIZES.items()},
        bias=given.get("bias", True),
        dropout=given.get("dropout", 0.0),
        positions="learned",
        activation="gelu",
        qk_norm=False,
        tie_embeddings=True,
    )
