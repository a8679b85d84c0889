"""How the memory of a process on a CPU is handed out and taken back."""

import ctypes
import os
from collections.abc import Callable

# Names of glibc's settings, from its malloc.h, the largest value of a setting, and the largest
# threshold that glibc takes before version 2.35.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _LARGEST_ONCE = 2**31 - 1, 2**25


def prefer_huge_pages() -> None:
    """Have torch take the memory of large tensors in huge pages.

    It looks before its first tensor, and no more.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Keep the memory of large tensors for the next ones.

    By itself, glibc gives the memory of each large tensor back to the system, which hands it out
    again page by page, every page filled with zeros; of a compiled training step that is a
    tenth to a fifth of the time. With other libraries for memory nothing happens.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return
    if mallopt(_MMAP_THRESHOLD, _LARGEST) or mallopt(_MMAP_THRESHOLD, _LARGEST_ONCE):
        mallopt(_TRIM_THRESHOLD, -1)


def give_freed_memory_back() -> None:
    """Let the system have what is free now, so that what the process holds is what it uses."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
    return function
