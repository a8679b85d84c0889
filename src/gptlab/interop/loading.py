"""A model from wherever it is."""

from pathlib import Path

import torch

from gptlab import checkpoint
from gptlab.config.model import AttentionBackend
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
    adapter: str | Path | None = None,
) -> tuple[GPT, Tokenizer]:
    """The model at `path`, in evaluation mode, and its tokenizer.

    Args:
        path: A run, whose newest checkpoint is meant, or a checkpoint's folder.
        device: Where the model goes.
        attention: The backend of this machine, not of that which trained the model.
        adapter: Adapters to merge into the model: what `gptlab.checkpoint.save_adapter` wrote, or
            a run that trained them. The tokenizer is theirs then.

    Raises:
        CheckpointError: There is none, it is damaged, or it has no tokenizer; or the adapters are
            of another model.
    """
    model, tokenizer = checkpoint.load(path, device=device, attention=attention)
    return (model, tokenizer) if adapter is None else checkpoint.with_adapter(model, adapter)
