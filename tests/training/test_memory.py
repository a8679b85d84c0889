import mmap
import sys

import pytest
import torch

from gptlab.errors import TrainingError
from gptlab.training.memory import (
    available_memory,
    explained_memory,
    peak_memory,
    restart_peak,
)

CPU = torch.device("cpu")
FREE = 5000 * 1024


@pytest.fixture
def system(tmp_path):
    """The root of a Linux with 5,000 KiB free, and a function that adds files."""

    def add(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path

    add("proc/meminfo", "MemTotal:     9000 kB\nMemFree:  70 kB\nMemAvailable:   5000 kB\n")
    add("proc/self/cgroup", "0::/\n")
    return add


def group(system, path, *, limit, used, cached, version=2):
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    system(f"{path}/{names[0]}", f"{limit}\n")
    system(f"{path}/{names[1]}", f"{used}\n")
    return system(f"{path}/memory.stat", f"anon 1\n{names[2]} {cached}\nactive_file 7\n")


def test_without_limits_it_is_what_the_kernel_says(system):
    assert available_memory(CPU, root=system("unrelated", "")) == FREE


def test_the_tightest_group_above_this_process_decides(system):
    system("proc/self/cgroup", "0::/jobs/mine\n")
    group(system, "sys/fs/cgroup/jobs/mine", limit="max", used=0, cached=0)
    root = group(system, "sys/fs/cgroup/jobs", limit=900_000, used=700_000, cached=50_000)
    assert available_memory(CPU, root=root) == 250_000


def test_a_container_whose_group_only_the_host_sees(system):
    system("proc/self/cgroup", "0::/host/only/path\n")
    root = group(system, "sys/fs/cgroup", limit=600_000, used=700_000, cached=0)
    assert available_memory(CPU, root=root) == 0


def test_groups_of_version_1(system):
    system("proc/self/cgroup", "9:cpu:/else\n4:memory:/mine\n0::/\n")
    group(system, "sys/fs/cgroup/else", limit=1, used=0, cached=0, version=1)
    root = group(
        system, "sys/fs/cgroup/memory/mine", limit=900_000, used=100_000, cached=5, version=1
    )
    assert available_memory(CPU, root=root) == 800_005


def test_a_limit_beyond_all_memory_is_none(system):
    system("proc/self/cgroup", "4:memory:/\n")
    root = group(system, "sys/fs/cgroup/memory", limit=2**63 - 4096, used=1, cached=0, version=1)
    assert available_memory(CPU, root=root) == FREE


def test_a_system_without_such_files_raises(tmp_path):
    with pytest.raises(OSError, match="meminfo"):
        available_memory(CPU, root=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the peak begin anew")
def test_the_peak_is_the_highest_since_it_began():
    size = 200 * 2**20
    # Not by the allocator, which may keep what is freed.
    with mmap.mmap(-1, size) as freed:
        for _ in range(size // 2**20):
            freed.write(b"x" * 2**20)
    high = peak_memory(CPU)
    low = restart_peak(CPU)
    assert low <= high - size // 2
    with mmap.mmap(-1, size) as kept:
        for _ in range(size // 2**20):
            kept.write(b"x" * 2**20)
        assert low + size // 2 < peak_memory(CPU) < low + 2 * size
    assert available_memory(CPU) > 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_failed_allocation_is_one_line(error):
    with pytest.raises(TrainingError) as raised, explained_memory():
        raise error
    assert str(raised.value) == (
        "the run does not fit into memory; write --micro_batch_size auto, "
        "--activation_checkpointing, --attention sdpa, or a smaller --seq_len, --embed_dim or "
        "--num_layers"
    )
    assert raised.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    text = "required rank 4 tensor to use channels_last memory format"
    with pytest.raises(RuntimeError, match=f"^{text}$"), explained_memory():
        raise RuntimeError(text)
