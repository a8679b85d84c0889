"""A trained model under other settings than it was trained with."""

import torch

from gptlab.errors import ConfigError
from gptlab.model.network import AnyNetwork

FREE = ("seq_len", "dropout", "attention")
"""Settings that may be others without other weights."""


def with_settings(model: AnyNetwork, *, seq_len: int, dropout: float, attention: str) -> AnyNetwork:
    """`model`, which is used up, with another longest context, dropout and attention backend.

    A shorter context cuts learned positions; a longer one takes positions that are computed.

    Raises:
        ConfigError: There are fewer learned positions than `seq_len`.
    """
    old = model.config
    config = old.replace(seq_len=seq_len, dropout=dropout, attention=attention)
    if config == old:
        return model
    state = model.state_dict()
    if config.positions == "learned":
        if seq_len > old.seq_len:
            raise ConfigError(
                f"seq_len is {seq_len}, but the model has learned {old.seq_len} positions and "
                f"knows no others; write --seq_len {old.seq_len} or less"
            )
        for name in [name for name in state if name.endswith("position_embedding.weight")]:
            state[name] = state[name][:seq_len].clone()
    device = model.device
    with torch.device("meta"):
        changed = type(model)(config)
    changed.load_state_dict(state, assign=True)
    # Its tables are stored nowhere, and made anew.
    changed._apply(  # type: ignore[no-untyped-call]
        lambda x: torch.empty_like(x, device=device) if x.is_meta else x
    )
    return changed.train(model.training)
