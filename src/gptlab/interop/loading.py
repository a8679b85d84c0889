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
) -> tuple[GPT, Tokenizer]:
    """The model at `path`, in evaluation mode, and its tokenizer.

    Args:
        path: A run, whose newest checkpoint is meant, or a checkpoint's folder.
        device: Where the model goes.
        attention: The backend of this machine, not of that which trained the model.

    Raises:
        CheckpointError: There is none, it is damaged, or it has no tokenizer.
    """
    return checkpoint.load(path, device=device, attention=attention)
