"""How much memory a run takes, how much there is, and a line for a run that does not fit."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from gptlab.errors import TrainingError
from gptlab.training.allocation import give_freed_memory_back

_ROOT = Path("/")
_NO_MEMORY = re.compile("(allocate|enough|out of) memory")
# Where a limit, its use, and what of that can be given back stand, in cgroups of version 2 and 1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn a failed allocation within into a TrainingError that says what to write."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch raises a plain RuntimeError that only its text tells apart.
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_memory and not _NO_MEMORY.search(str(error)):
            raise
        raise TrainingError(
            "the run does not fit into memory; write --micro_batch_size auto, "
            "--activation_checkpointing, --attention sdpa, or a smaller --seq_len, --embed_dim or "
            "--num_layers"
        ) from error


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: on a GPU of torch's tensors, else of the process.

    0 where the system does not count, as on Windows.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak(device: torch.device) -> int:
    """Let `peak_memory` begin anew; the bytes in use now.

    Raises:
        OSError: It can't, outside Linux for example.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        give_freed_memory_back()
        # 5 stands for the peak, https://docs.kernel.org/filesystems/proc.html.
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def available_memory(device: torch.device, *, root: Path = _ROOT) -> int:
    """Bytes that this process can take beside those it has.

    Args:
        device: Whose memory.
        root: Where the Linux system keeps its files.

    Raises:
        OSError: The system does not tell, outside Linux for example.
    """
    if device.type == "cuda":
        # What torch keeps for later use is not free to the GPU, but it is to us.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    lines = (root / "proc/meminfo").read_text().splitlines()
    numbers = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    free = 1024 * int(numbers["MemAvailable"].split()[0])
    return max(0, min([free, *_below_limits(root)]))


def _below_limits(root: Path) -> Iterator[int]:
    """Bytes left under the limit of each control group of this process."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        top = root / "sys/fs/cgroup"
        if "memory" in controllers.split(","):
            top /= "memory"
        elif controllers:
            continue
        folder = top / path.lstrip("/")
        while folder.is_relative_to(top):
            for limit, usage, returnable in _CGROUP_FILES:
                # In a container the path may be one that only its host sees, and 'max' is none.
                with suppress(OSError, ValueError):
                    used = int((folder / usage).read_text())
                    stats = (folder / "memory.stat").read_text().split()
                    cached = int(stats[stats.index(returnable) + 1])
                    yield int((folder / limit).read_text()) - used + cached
            folder = folder.parent
