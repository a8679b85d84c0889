"""Run contenders in fresh processes, one at a time, and take their time and their memory.

What a contender does is a script that takes its task as JSON, times what is to be timed, and prints
its result as one line of JSON; the benchmark meanwhile watches it.
"""

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_SAMPLE_SECONDS = 0.02
_SAMPLING_SHARE = 0.02
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Run:
    """What a fresh process printed and took.

    `peak_bytes` is the largest sum of `memory_kind()` over the process and all below it,
    `largest_process_bytes` the highest resident set size that the system saw in one of them; Linux
    never says less than this process itself, which starts them, has ever had.
    """

    result: dict[str, Any]
    process_seconds: float
    peak_bytes: int
    largest_process_bytes: int


def run_task(script: Path, task: dict[str, Any], *, cores: int) -> Run:
    """Start `script TASK` in a fresh process with `cores` cores, and wait for it.

    Raises:
        RuntimeError: The process failed; what it said is on standard error.
    """
    command = [sys.executable, str(script), json.dumps({**task, "cores": cores})]
    threads = {
        "RAYON_NUM_THREADS": str(cores),
        "TOKENIZERS_PARALLELISM": "true" if cores > 1 else "false",
    }
    samples = [0]
    ended = threading.Event()
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | threads, stdout=output)
        watcher = threading.Thread(target=_watch_memory, args=(process.pid, samples, ended))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        ended.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode} from the task {task}")
        output.seek(0)
        result = json.loads(output.read().splitlines()[-1])
    largest = usage.ru_maxrss * _MAXRSS_UNIT
    # Where there is no /proc, the largest process has to stand for all.
    return Run(result, seconds, max(samples) or largest, largest)


def use_cores(cores: int) -> None:
    """Keep this process, and those that it starts, on the first `cores` cores (Linux only)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_kind() -> str:
    """PSS, which divides a shared page among its processes, or RSS where the system has no PSS."""
    return "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS"


def _watch_memory(pid: int, samples: list[int], ended: threading.Event) -> None:
    pause = _SAMPLE_SECONDS
    while not ended.wait(pause):
        start = time.perf_counter()
        samples.append(_tree_bytes(pid))
        # The larger a process, the longer a look at it takes; it must not cost a contender time.
        pause = max(_SAMPLE_SECONDS, (time.perf_counter() - start) / _SAMPLING_SHARE)


def _tree_bytes(pid: int) -> int:
    """Memory of a process and all below it; one that ends meanwhile counts as nothing."""
    try:
        own = _process_bytes(pid)
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0
    return own + sum(_tree_bytes(int(child)) for children in lists for child in children.split())


def _process_bytes(pid: int) -> int:
    if memory_kind() == "PSS":
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return sum(1024 * int(kilobytes) for kilobytes in re.findall(r"^Pss: +(\d+)", rollup, re.M))
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def restart_peak() -> int:
    """Let `peak_resident` begin anew where the system can; the bytes resident now."""
    with suppress(OSError):
        # 5 stands for the peak, https://docs.kernel.org/filesystems/proc.html.
        Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak_resident() -> int:
    """Most bytes that this process had in memory at once, mapped files among them."""
    return _resident("VmHWM")


def _resident(field: str) -> int:
    status = Path("/proc/self/status")
    if status.exists():
        (kilobytes,) = re.findall(rf"^{field}:\s+(\d+)", status.read_text(), re.M)
        return 1024 * int(kilobytes)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def summary(values: Iterable[float]) -> dict[str, float]:
    """Median, least and greatest."""
    values = list(values)
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in figures.items()}


def spread(figures: Mapping[str, float], form: str, scale: float = 1) -> str:
    """Median, and least and greatest where there are several."""
    median, least, greatest = (
        format(scale * figures[name], form) for name in ("median", "min", "max")
    )
    return median if figures["min"] == figures["max"] else f"{median} ({least}–{greatest})"


def machine(packages: Sequence[str], *, cores: int) -> dict[str, Any]:
    """The processor, the cores in use, and the versions of Python and of packages."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": cores,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
    }


@dataclass(frozen=True)
class Table:
    """A table: text in the first column, numbers in the others; as a string it is Markdown."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __str__(self) -> str:
        lines = [f"{self.caption}:\n"] if self.caption else []
        lines += [f"| {' | '.join(self.header)} |", f"|---{'|--:' * (len(self.header) - 1)}|"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows)])


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{Table(header, list(rows))}\n")


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write a benchmark's result to benchmarks/results/NAME.json."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
