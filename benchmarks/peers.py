"""Models of other libraries, of the same shape as gptlab's."""

import warnings
from collections.abc import Mapping
from typing import Any


def gpt2_config(shape: Mapping[str, int], **settings: Any) -> Any:
    """The configuration of a GPT-2 of transformers, from a shape in gptlab's settings."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=shape["vocab_size"],
        n_positions=shape["seq_len"],
        n_embd=shape["embed_dim"],
        n_layer=shape["num_layers"],
        n_head=shape["n_heads"],
        **settings,
    )


def hush_transformers() -> None:
    """No bars and no warnings from transformers, which would stand between the figures."""
    from transformers.utils import logging

    warnings.simplefilter("ignore", FutureWarning)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
