"""What is fastest on this machine, found by trying it out once.

Letters: B batch, T length, H heads, K head width.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.model.attention import attend, usual_backend
from gptlab.training.machine import measured
from gptlab.training.precision import Arithmetic

_ROWS = 4
_ROUNDS = 5
# Only what is clearly faster than the usual choice is preferred to it.
_CLEAR = 1.1
_SMALL_PRODUCT, _PRODUCT = 256, 2048
_FAST = 2e10


def choose_attention(config: ModelConfig, arithmetic: Arithmetic) -> str:
    """The backend that trains fastest for models of this shape, where the settings leave it open.

    On a GPU PyTorch itself chooses among kernels, which `auto` stands for.
    """
    if config.attention != "auto" or arithmetic.device.type != "cpu":
        return config.attention
    dtype = arithmetic.dtype
    usual = usual_backend(arithmetic.device, dtype, length=config.seq_len)

    def fastest() -> str:
        times = {
            name: _seconds(_attention_step(name, config, dtype)) for name in ("sdpa", "blocked")
        }
        best = min(times, key=times.__getitem__)
        return best if times[usual] > _CLEAR * times[best] else usual

    shape = f"T {config.seq_len}, {config.n_heads}/{config.kv_heads} x {config.head_dim}"
    return str(measured(f"attention {arithmetic.precision}, {shape}", fastest))


def product_rate(arithmetic: Arithmetic) -> float:
    """Operations a second in the matrix products of a CPU: the best of some large ones."""

    def rate(size: int) -> float:
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, size, size, generator=generator).to(arithmetic.dtype)
        return 2 * size**3 / min(_times(lambda: a @ b))

    def best() -> float:
        slow = rate(_SMALL_PRODUCT)
        # What the processor has no instructions for would take minutes.
        return slow if slow < _FAST else max(slow, rate(_PRODUCT))

    return float(measured(f"products {arithmetic.precision}", best))


def _attention_step(
    backend: str, config: ModelConfig, dtype: torch.dtype
) -> Callable[[], tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(
            _ROWS, config.seq_len, heads, config.head_dim, generator=generator, dtype=dtype
        ).requires_grad_()
        for heads in (config.n_heads, config.kv_heads, config.kv_heads)
    ]

    def step() -> tuple[Tensor, ...]:
        output = attend(*inputs, backend=backend)
        return torch.autograd.grad(output, inputs, torch.ones_like(output))

    return step


def _seconds(work: Callable[[], object]) -> float:
    return statistics.median(_times(work))


def _times(work: Callable[[], object]) -> list[float]:
    """Seconds of some calls; a first one warms up."""
    times = []
    for _ in range(1 + _ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[1:]
