"""One folder is one self-contained model: configuration, weights, tokenizer, and training state.

    config.json          format, version, architecture, step, the model's settings, bits and head
    model.safetensors    weights
    adapter.safetensors  adapters, where a model has some beside its weights
    tokenizer files      as the tokenizer saves them
    trainer/             what resuming needs, where the training loop saved it
    checksums.json       SHA-256 of every file above

A folder is written under a temporary name, flushed, and renamed, so that a reader never sees half
of one. No pickle is loaded but a bare state dict that the user names, and that by `weights_only`.
"""

from gptlab.checkpoint.adapters import save_adapter, with_adapter
from gptlab.checkpoint.files import TRAINER, read_header, verify
from gptlab.checkpoint.find import checkpoints_in, find_checkpoint, named_model
from gptlab.checkpoint.models import (
    load_model,
    load_with_head,
    require_language_model,
    save,
)
from gptlab.checkpoint.state_dict import implied_settings, load_state_dict
from gptlab.checkpoint.tensors import load_tensors, save_tensors
from gptlab.checkpoint.vocabulary import add_special_tokens

__all__ = [
    "TRAINER",
    "add_special_tokens",
    "checkpoints_in",
    "find_checkpoint",
    "implied_settings",
    "load_model",
    "load_state_dict",
    "load_tensors",
    "load_with_head",
    "named_model",
    "read_header",
    "require_language_model",
    "save",
    "save_adapter",
    "save_tensors",
    "verify",
    "with_adapter",
]
