"""What is fastest on this machine, found by trying it out once.

Letters: B batch, T length, H heads, K head width.
"""

import math
import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.model.attention import attend, usual_backend
from gptlab.training.machine import measured, recalled, remember
from gptlab.training.memory import available_memory
from gptlab.training.precision import Arithmetic

# Tokens to try attention with, and a call that takes so long is the only one.
_TOKENS = 4096
_ROUNDS = 5
_LONG_SECONDS = 1.0
# Only what is clearly faster than the usual choice is preferred to it.
_CLEAR = 1.1
# Share of the free memory that attention weights may take, and what is assumed to be free where the
# system does not tell.
_SHARE = 0.25
_ASSUMED_FREE = 8 * 2**30
_SMALL_PRODUCT, _PRODUCT = 256, 2048
_PRODUCTS = 2
_FAST = 1e10


def choose_attention(config: ModelConfig, arithmetic: Arithmetic, *, rows: int) -> str:
    """The backend that trains fastest for models of this shape, where the settings leave it open.

    One whose attention weights would crowd the memory is out. On a GPU PyTorch itself chooses
    among kernels, which `auto` stands for.

    Args:
        config: The model.
        arithmetic: Where and in what it trains.
        rows: Windows computed at once.
    """
    if config.attention != "auto" or arithmetic.device.type != "cpu":
        return config.attention
    if _kept_bytes(config, arithmetic, rows=rows) > _SHARE * _free_memory(arithmetic.device):
        return "sdpa"
    usual = usual_backend(arithmetic.device, arithmetic.dtype, length=config.seq_len)
    candidates = ("sdpa", "blocked")

    def fastest() -> str:
        times = {name: _seconds(_attention_step(name, config, arithmetic)) for name in candidates}
        best = min(times, key=times.__getitem__)
        return best if times[usual] > _CLEAR * times[best] else usual

    shape = f"T {config.seq_len}, {config.n_heads}/{config.kv_heads} x {config.head_dim}"
    what = f"attention {arithmetic.precision}, {shape}, dropout {config.dropout:g}"
    return str(measured(what, fastest, is_valid=candidates.__contains__))


def product_rate(arithmetic: Arithmetic) -> float:
    """Operations a second in the matrix products of a CPU: the best of some large ones.

    The best of all runs so far on this machine, for it may be busy during one.
    """
    what = f"products {arithmetic.precision}"
    known, now = recalled(what), _rate_now(arithmetic.dtype)
    if is_positive(known) and known >= now:
        return float(known)
    remember(what, now)
    return now


@cache
def _rate_now(dtype: torch.dtype) -> float:
    """The rate of products in a type, tried once in a process."""

    def rate(size: int) -> float:
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, size, size, generator=generator).to(dtype)
        return 2 * size**3 / min(_times(lambda: a @ b, rounds=_PRODUCTS))

    small = rate(_SMALL_PRODUCT)
    # What the processor has no instructions for would take minutes.
    return max(small, rate(_PRODUCT)) if small > _FAST else small


def is_positive(value: object) -> bool:
    """Whether it is a number above zero."""
    return isinstance(value, int | float) and 0 < value < math.inf


def _kept_bytes(config: ModelConfig, arithmetic: Arithmetic, *, rows: int) -> int:
    """What attention by blocks keeps of a pass through the model for the way back."""
    weights = rows * config.n_heads * config.seq_len**2 // 2
    kinds = 2 if config.dropout else 1
    return config.num_layers * kinds * weights * arithmetic.dtype.itemsize


def _free_memory(device: torch.device) -> int:
    try:
        return available_memory(device)
    except OSError:
        return _ASSUMED_FREE


def _attention_step(
    backend: str, config: ModelConfig, arithmetic: Arithmetic
) -> Callable[[], tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    rows = max(1, _TOKENS // config.seq_len)
    inputs = [
        torch.randn(rows, config.seq_len, heads, config.head_dim, generator=generator)
        .to(arithmetic.dtype)
        .requires_grad_()
        for heads in (config.n_heads, config.kv_heads, config.kv_heads)
    ]

    def step() -> tuple[Tensor, ...]:
        output = attend(*inputs, backend=backend, dropout=config.dropout)
        return torch.autograd.grad(output, inputs, torch.ones_like(output))

    return step


def _seconds(work: Callable[[], object]) -> float:
    return statistics.median(_times(work))


def _times(work: Callable[[], object], *, rounds: int = _ROUNDS) -> list[float]:
    """Seconds of some calls; a first one warms up, unless it takes long."""
    times: list[float] = []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        if times[0] > _LONG_SECONDS:
            return times
    return times[1:]
