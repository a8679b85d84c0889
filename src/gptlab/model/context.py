"""A shorter context for a model that is trained already."""

from torch import nn

from gptlab.errors import ConfigError
from gptlab.model.gpt import GPT


def shorten_context(model: GPT, seq_len: int) -> GPT:
    """`model` with a context of `seq_len`, in place; it computes what it did of shorter texts.

    Of learned positions the first `seq_len` stay.

    Raises:
        ConfigError: `seq_len` is more than the model's.
    """
    config = model.config
    if seq_len > config.seq_len:
        raise ConfigError(
            f"seq_len is {seq_len}, but the model's context is {config.seq_len} and can only "
            f"shrink; give {config.seq_len} or less"
        )
    model.config = config.replace(seq_len=seq_len)
    if config.positions == "learned":
        weight = model.position_embedding.weight
        kept = weight.detach()[:seq_len].clone()
        model.position_embedding.weight = nn.Parameter(kept, requires_grad=weight.requires_grad)
        model.position_embedding.num_embeddings = seq_len
    # Its tables of positions are made anew.
    model._apply(lambda tensor: tensor)
    return model
