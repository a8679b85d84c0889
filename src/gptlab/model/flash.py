"""The installed flash-attn package, whichever generation it is: 2, 3 or 4.

The generations share a namespace, so each is told by the name of its distribution. None of them
is a dependency; nothing is imported before a user asks for the `flash` backend.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.errors import BackendError


@dataclass(frozen=True)
class FlashPackage:
    """One generation of flash-attn and what it can do."""

    distribution: str
    module: str
    capabilities: tuple[int, ...]
    dropout: bool


PACKAGES = (
    FlashPackage("flash-attn-4", "flash_attn.cute", capabilities=(9, 10), dropout=False),
    FlashPackage("flash-attn-3", "flash_attn_interface", capabilities=(8, 9), dropout=False),
    FlashPackage("flash-attn", "flash_attn", capabilities=(8, 9, 10, 12), dropout=True),
)


def flash_attention(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    lengths_B: Tensor | None = None,
    dropout: float,
) -> Tensor:
    """Attention by flash-attn, (B, T, H, K); a causal mask and a window end at the last key.

    Of rows whose keys are filled up at the end, `lengths_B` says how many there are; such rows are
    read without a causal mask, and without a window.

    Raises:
        BackendError: No package is installed, or it can't serve this device, dtype or dropout.
    """
    package = _package(q_BTHK, dropout)
    options: dict[str, Any] = {"causal": causal}
    if window is not None:
        options["window_size"] = (window - 1, 0)
    if package.dropout:
        options["dropout_p"] = dropout
    if lengths_B is None:
        result = _function(package, "flash_attn_func")(q_BTHK, k_BSHK, v_BSHK, **options)
    else:
        result = _of_uneven_rows(package, q_BTHK, k_BSHK, v_BSHK, lengths_B, options)
    # Some generations return the log-sum-exp as well.
    output: Tensor = result[0] if isinstance(result, tuple) else result
    return output.view(q_BTHK.shape) if lengths_B is not None else output


def _of_uneven_rows(
    package: FlashPackage,
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    lengths_B: Tensor,
    options: dict[str, Any],
) -> Any:
    """All queries of all rows one after another, and their keys without filling."""
    if options["causal"] or "window_size" in options:
        raise BackendError(
            "attention is 'flash', which takes rows of different lengths without a causal mask "
            "and a window alone; write --attention auto"
        )
    B, T, S = *q_BTHK.shape[:2], k_BSHK.shape[1]
    is_real_BS = torch.arange(S, device=lengths_B.device) < lengths_B.unsqueeze(1)
    ends = F.pad(lengths_B.cumsum(0), (1, 0)).int()
    query_ends = torch.arange(0, (B + 1) * T, T, device=lengths_B.device, dtype=torch.int32)
    function = _function(package, "flash_attn_varlen_func")
    return function(
        q_BTHK.flatten(0, 1),
        k_BSHK[is_real_BS],
        v_BSHK[is_real_BS],
        cu_seqlens_q=query_ends,
        cu_seqlens_k=ends,
        max_seqlen_q=T,
        max_seqlen_k=S,
        **options,
    )


def _package(q_BTHK: Tensor, dropout: float) -> FlashPackage:
    installed = [package for package in PACKAGES if _is_installed(package.distribution)]
    if not installed:
        raise BackendError(
            "attention is 'flash', but no flash-attn package is installed; "
            "pip install flash-attn, or write --attention auto"
        )
    if q_BTHK.device.type != "cuda":
        raise BackendError(
            f"attention is 'flash', but the model is on {q_BTHK.device.type} and flash-attn runs "
            "on NVIDIA GPUs alone; write --attention auto"
        )
    if q_BTHK.dtype not in (torch.float16, torch.bfloat16):
        raise BackendError(
            f"attention is 'flash', but queries are {q_BTHK.dtype} and flash-attn takes 16-bit "
            "floats; write --precision bf16"
        )
    capability = torch.cuda.get_device_capability(q_BTHK.device)
    fitting = [package for package in installed if capability[0] in package.capabilities]
    if not fitting:
        raise BackendError(
            f"attention is 'flash', but {', '.join(p.distribution for p in installed)} does not "
            f"support compute capability {capability[0]}.{capability[1]}; write --attention auto"
        )
    for package in fitting:
        if package.dropout or not dropout:
            return package
    raise BackendError(
        f"attention is 'flash', but {fitting[0].distribution} has no dropout; write --dropout 0"
    )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


@cache
def _function(package: FlashPackage, name: str) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(package.module), name)
    except (ImportError, AttributeError) as error:
        raise BackendError(
            f"attention is 'flash', but {package.distribution} does not import: {error}; "
            "reinstall it, or write --attention auto"
        ) from None
    # Generations 3 and 4 register no custom operator that a compiled graph could hold.
    if package.dropout:
        return function
    opaque: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return opaque
