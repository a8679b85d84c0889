"""The same bits each time, on a GPU too."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from gptlab.errors import BackendError

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
# Those with which cuBLAS promises the same bits, https://docs.nvidia.com/cuda/cublas/#results-reproducibility.
_FIXED_WORKSPACES = (":4096:8", ":16:8")


@contextmanager
def deterministic(enabled: bool, device: torch.device) -> Iterator[None]:
    """If `enabled`, let torch use kernels alone that give the same bits each time.

    Enter it before the first product on a GPU, since cuBLAS reads its setting once. An operation
    that has no such kernel raises a RuntimeError of torch's, which names it. Everything is as it
    was afterwards.

    Raises:
        BackendError: The environment asks cuBLAS for what can't be deterministic.
    """
    if not enabled:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_torch_algorithms())
        if device.type == "cuda":
            stack.enter_context(_cublas_workspaces())
            stack.enter_context(_changed(torch.backends.cudnn, deterministic=True, benchmark=False))
            stack.enter_context(_without_cudnn_attention())
        yield


@contextmanager
def _torch_algorithms() -> Iterator[None]:
    former = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    # The compiler too then chooses kernels by rule, and not by stopwatch.
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(former, warn_only=warned_only)


@contextmanager
def _cublas_workspaces() -> Iterator[None]:
    former = os.environ.get(_CUBLAS)
    if former not in (None, *_FIXED_WORKSPACES):
        raise BackendError(
            f"{_CUBLAS} is '{former}', but --deterministic needs {' or '.join(_FIXED_WORKSPACES)}; "
            f"unset {_CUBLAS}"
        )
    os.environ.setdefault(_CUBLAS, _FIXED_WORKSPACES[0])
    try:
        yield
    finally:
        if former is None:
            os.environ.pop(_CUBLAS, None)


@contextmanager
def _without_cudnn_attention() -> Iterator[None]:
    # Its backward pass adds up in the order in which blocks finish.
    former: bool = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(former)


@contextmanager
def _changed(owner: Any, **values: bool) -> Iterator[None]:
    former = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in former.items():
            setattr(owner, name, value)
