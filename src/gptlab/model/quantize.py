"""A model's matrices in fewer bits."""

import copy
from typing import cast

from torch import Tensor, nn

from gptlab.config import Quantization
from gptlab.errors import ConfigError
from gptlab.model.linear import Embedding, Linear
from gptlab.model.network import AnyNetwork, Network
from gptlab.model.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix


def quantize(model: AnyNetwork, *, bits: int = 8, group_size: int | None = None) -> AnyNetwork:
    """A copy of `model` whose matrices have `bits` bits a weight; it generates and does not learn.

    All matrices of the blocks, the token embedding and the head; norms, biases and learned
    positions stay as they are. `gptlab.model.quantized` says how far a weight moves.

    Args:
        model: Left as it is; the copy shares the memory of what is not quantized.
        bits: 8 or 4.
        group_size: Neighbours in a row that share a scale; a row with 8 bits and about 32 with 4
            if None.

    Raises:
        ConfigError: The bits are others, the group size does not divide a matrix, the model is
            quantized already, or its weights are not finite.
    """
    if model.quantization is not None:
        raise ConfigError(
            f"the model has {model.quantization.bits} bits a weight already; quantize the one it "
            "was made from"
        )
    kept: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        # What is replaced is not copied, and what stays has its own settings, not its own memory.
        kept[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    small = copy.deepcopy(model, kept)
    replace_matrices(small, Quantization(bits=bits, group_size=group_size))
    for name, module in small.named_modules():
        if isinstance(module, QuantizedMatrix):
            weight = cast(Linear | Embedding, model.get_submodule(name)).weight.detach()
            if not weight.isfinite().all():
                raise ConfigError(f"{name}.weight is not finite everywhere; use another model")
            module.fill(weight)
    return small.eval()


def replace_matrices(model: Network, quantization: Quantization) -> None:
    """Put quantized matrices, without memory yet, in the place of those of `model`.

    Raises:
        ConfigError: Their rows do not divide into groups of that size.
    """
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, Linear | Embedding):
                setattr(parent, name, _quantized(module, quantization))
    model.quantization = quantization
    model.requires_grad_(False)


def _quantized(module: Linear | Embedding, quantization: Quantization) -> QuantizedMatrix:
    rows, columns = module.weight.shape
    shape, dtype = (rows, columns), module.weight.dtype
    if isinstance(module, Linear):
        return QuantizedLinear(shape, quantization, dtype=dtype, bias=module.bias)
    return QuantizedEmbedding(shape, quantization, dtype=dtype)
