"""Low-rank adapters: small matrices that learn beside large ones that stay as they are.

    y = W x + (alpha / rank) B A x

Hu et al. 2021, https://arxiv.org/abs/2106.09685. B begins as zeros, so that the model begins as
what it was. A layer with adapters keeps the names of its own tensors, and adds `lora_a` and
`lora_b`: what is left without those is the state of the base.

Letters: N outputs, K inputs, R rank.
"""

import copy
import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config import LoRA, Quantization
from gptlab.config.fine_tuning import PROJECTIONS
from gptlab.errors import ConfigError
from gptlab.model.init import initialise
from gptlab.model.linear import Linear, is_compiled_row, linear
from gptlab.model.network import Network
from gptlab.model.quantized import QuantizedLinear
from gptlab.model.stack import AnyStack, Stack, require_alone

_ADAPTER = re.compile(r".*\.lora_[ab]")


class _Adapter(nn.Module):
    """The two matrices, for a layer that mixes this in."""

    lora_a: nn.Parameter
    """(R, K)"""
    lora_b: nn.Parameter
    """(N, R)"""
    lora: LoRA

    def _adapt(self, shape: tuple[int, int], lora: LoRA, like: Tensor) -> None:
        N, K = shape
        self.lora = lora
        self.lora_a = nn.Parameter(like.new_empty(lora.rank, K))
        self.lora_b = nn.Parameter(like.new_zeros(N, lora.rank))

    def _added(self, y: Tensor, x: Tensor) -> Tensor:
        """`y` (..., N), the base's product with `x` (..., K), and the adapter's share."""
        if is_compiled_row(x):
            return y + self.lora.scale * linear(linear(x, self.lora_a), self.lora_b)
        if self.training and self.lora.dropout:
            x = F.dropout(x, self.lora.dropout)
        narrow = F.linear(x, self.lora_a).flatten(0, -2)
        # Product, factor and sum at once.
        wide = torch.addmm(y.flatten(0, -2), narrow, self.lora_b.t(), alpha=self.lora.scale)
        return wide.view(y.shape)

    @torch.no_grad()
    def product_of_adapter(self) -> Tensor:
        """What the adapter adds to its matrix, (N, K) float32."""
        return self.lora.scale * (self.lora_b.float() @ self.lora_a.float())


class LoRALinear(Linear, _Adapter):
    """`layer`, whose tensors it takes over, with an adapter."""

    def __init__(self, layer: Linear, lora: LoRA) -> None:
        super().__init__(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        self.weight, self.bias = layer.weight, layer.bias
        self._adapt((layer.out_features, layer.in_features), lora, layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        return self._added(linear(x, self.weight, self.bias), x)


class QuantizedLoRALinear(QuantizedLinear, _Adapter):
    """`layer`, whose tensors it takes over, with an adapter."""

    def __init__(self, layer: QuantizedLinear, lora: LoRA) -> None:
        quantization = Quantization(bits=layer.bits, group_size=layer.group_size)
        super().__init__(layer.shape, quantization, dtype=layer.like.dtype, bias=layer.bias)
        self.weight, self.scale, self.like = layer.weight, layer.scale, layer.like
        self._adapt(layer.shape, lora, layer.like)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        return self._added(self.product(x, self.bias), x)


def add_lora(model: Stack, lora: LoRA, *, seed: int | None = None) -> None:
    """Put adapters into `model`, in place; they alone learn from now on.

    With an int8 base the matrices of the blocks are quantized. Embedding, head, norms and biases
    stay as they are.

    Args:
        model: In floating point.
        lora: Which, and where.
        seed: Of the adapters' A; torch's global generator draws them if None.

    Raises:
        ConfigError: The model is an encoder-decoder, is quantized, has adapters already, or not one
            of those projections.
    """
    require_alone(model, "have adapters")
    require_plain(model, "adapt")
    has = {name.rpartition(".")[2] for name, _ in _projections(model)}
    if missing := set(lora.modules) - has:
        raise ConfigError(
            f"lora_modules has '{min(missing)}', but the model has only "
            f"{', '.join(name for name in PROJECTIONS if name in has)}; choose from these"
        )
    model.requires_grad_(False)
    for name, layer in list(_projections(model)):
        parent, _, own = name.rpartition(".")
        adapted: nn.Module = _quantized(name, layer) if lora.base == "int8" else layer
        if own in lora.modules:
            adapted = (
                QuantizedLoRALinear(adapted, lora)
                if isinstance(adapted, QuantizedLinear)
                else LoRALinear(layer, lora)
            )
        setattr(model.get_submodule(parent), own, adapted.train(model.training))
    model.lora = lora
    initialise(model, model.config, seed=seed, only=_ADAPTER.pattern)


def all_modules(model: Stack) -> tuple[str, ...]:
    """The names of all projections that the model has."""
    has = {name.rpartition(".")[2] for name, _ in _projections(model)}
    return tuple(name for name in PROJECTIONS if name in has)


def is_adapter(name: str) -> bool:
    """Whether a tensor of a model with adapters is one of theirs, or a head's, by its name."""
    return _ADAPTER.fullmatch(name) is not None or name.startswith("head.")


def require_plain(model: Network, what: str) -> None:
    """Refuse to do `what` with a model that has adapters, or not all of its digits.

    Raises:
        ConfigError: It has.
    """
    if model.quantization is not None:
        raise ConfigError(
            f"the model has {model.quantization.bits} bits a weight, too few to {what} it; give "
            "the one that it was made from"
        )
    if model.lora is not None:
        raise ConfigError(f"the model has adapters, and can't be used to {what} it; merge it first")


def merged(model: AnyStack) -> AnyStack:
    """A plain model with the weights W + (alpha / rank) B A; one without adapters is returned.

    The sum is taken in float32 and rounded to the type of the model's numbers: logits differ by
    that rounding alone. It shares the memory of what has no adapter, and has its mode; all of it
    learns again. With an int8 base, the matrices are those that the 8 bits stand for, in floating
    point again.
    """
    if model.lora is None:
        return model
    kept: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        kept[id(parameter)] = nn.Parameter(parameter.detach())
    plain = copy.deepcopy(model, kept)
    plain.lora = None
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, LoRALinear | QuantizedLinear):
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, _merged(layer))
    return plain


@torch.no_grad()
def _merged(layer: LoRALinear | QuantizedLinear) -> Linear:
    weight = layer.dense() if isinstance(layer, QuantizedLinear) else layer.weight
    if isinstance(layer, _Adapter):
        weight = (weight.float() + layer.product_of_adapter()).to(weight.dtype)
    rows, columns = weight.shape
    plain = Linear(columns, rows, bias=False, device="meta")
    plain.weight = nn.Parameter(weight.detach())
    plain.register_parameter("bias", layer.bias)
    return plain.train(layer.training)


def _projections(model: Stack) -> Iterator[tuple[str, Linear]]:
    for name, layer in model.blocks.named_modules(prefix="blocks"):
        if isinstance(layer, Linear) and name.rpartition(".")[2] in PROJECTIONS:
            yield name, layer


def _quantized(name: str, layer: Linear) -> QuantizedLinear:
    shape, dtype = (layer.out_features, layer.in_features), layer.weight.dtype
    small = QuantizedLinear(shape, Quantization(bits=8), dtype=dtype, bias=layer.bias)
    if layer.weight.is_meta:
        return small
    if not layer.weight.isfinite().all():
        raise ConfigError(f"{name}.weight is not finite everywhere; use another model")
    return small.fill(layer.weight.detach())


def freeze_all_but_last(model: Stack, layers: int) -> None:
    """Let the last `layers` blocks, the last norm and an own head learn, and nothing else.

    Below, not even the graph for gradients is made. A head that is the embedding stays as it is.

    Raises:
        ConfigError: The model has fewer blocks.
    """
    if layers > len(model.blocks):
        raise ConfigError(
            f"train_last_layers is {layers}, but the model has {len(model.blocks)} layers; give "
            "that or fewer"
        )
    model.requires_grad_(False)
    # What has another head learns nothing about next tokens.
    own = "lm_head" if model.head is None else "head"
    heads = [child for name, child in model.named_children() if name == own]
    for module in (*model.blocks[-layers:], model.norm, *heads):
        module.requires_grad_(True)
