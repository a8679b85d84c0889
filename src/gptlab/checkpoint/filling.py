"""Models that are made without memory and then given their tensors, of which there is one copy."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError
from gptlab.model import GPT, Network
from gptlab.model.network import AnyNetwork


def without_memory(config: ModelConfig) -> GPT:
    """A GPT whose tensors have shapes and no memory, for `fill` to give them theirs."""
    return made_without_memory(lambda: GPT(config))


def made_without_memory(make: Callable[[], AnyNetwork]) -> AnyNetwork:
    """What `make` makes, with shapes and no memory."""
    # So that no weights are drawn only to be replaced.
    with torch.device("meta"), _Unfilled():
        return make()


class _Unfilled(TorchFunctionMode):
    """Leaves out `torch.nn.init`, which loads torch's compiler to fill what has no memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def fill(
    model: AnyNetwork, read: Callable[[str], Tensor], *, device: torch.device | str
) -> AnyNetwork:
    """Give a model without memory its tensors, and put it into evaluation mode.

    They are read one at a time and become the model's own, so that there is one copy of them.

    Args:
        model: From `without_memory`; its numbers are of the type that they shall have.
        read: Gives the tensor of a name, of the right shape and shared with nothing.
        device: Where the model goes.
    """
    likes = model.state_dict()
    # The largest first: what was only needed to rearrange it then has room for each later one, and
    # the memory of the process grows by the tensors alone.
    names = sorted(likes, key=lambda name: -likes[name].nbytes)
    tensors = {name: read(name).to(device=device, dtype=likes[name].dtype) for name in names}
    model.load_state_dict(tensors, assign=True)
    # What is stored nowhere is made anew.
    model._apply(  # type: ignore[no-untyped-call]
        lambda x: torch.empty_like(x, device=device) if x.is_meta else x
    )
    return model.eval()


def require_fit(model: Network, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuse tensors that are not those of `model`, by name, shape and bits.

    Raises:
        CheckpointError: They are not; the message names the first.
    """
    expected = model.state_dict()
    if _bits(tensors) != _bits(expected):
        raise CheckpointError(
            f"{source} holds {_in_words(_bits(tensors))}, but the model's settings say "
            f"{_in_words(_bits(expected))}; use another checkpoint"
        )
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            problem = "lacks" if name not in tensors else "has an unknown"
            raise CheckpointError(f"{source} {problem} tensor '{name}'; check the model's settings")
        if tensors[name].shape != expected[name].shape:
            flags = "--vocab_size, --embed_dim, --num_layers and --n_heads"
            raise CheckpointError(
                f"{source}: '{name}' is {tuple(tensors[name].shape)}, but the settings make it "
                f"{tuple(expected[name].shape)}; check "
                f"{'group_size' if name.endswith('.scale') else flags}"
            )


def _bits(tensors: Mapping[str, Tensor]) -> int | None:
    """In how many bits the matrices among `tensors` are, if not in floating point."""
    types = {tensor.dtype for tensor in tensors.values()}
    return 4 if torch.uint8 in types else 8 if torch.int8 in types else None


def _in_words(bits: int | None) -> str:
    return "numbers in floating point" if bits is None else f"{bits} bits a weight"
