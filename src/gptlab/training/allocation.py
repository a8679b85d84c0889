"""How the memory of a process on a CPU is handed out and taken back."""

import ctypes
import os

# Names of glibc's settings, from its malloc.h, and the largest value that they take.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep the memory of large tensors for the next ones, and have it in huge pages.

    By itself, glibc gives the memory of each large tensor back to the system, which hands it out
    again page by page, every page filled with zeros; of a compiled training step that is a
    tenth to a fifth of the time. Nothing happens with other libraries for memory, and torch takes
    huge pages only in a process that had no tensor before.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, -1)
