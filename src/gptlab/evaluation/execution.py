"""Programs that a model wrote, run against their tests in processes of their own.

What is here limits resources; it is no security sandbox. A program runs as the user who evaluates:
it can read and change what that user can, and what is refused to it in Python (processes, signals,
sockets) could be reached around Python. Run the programs of a model that you do not trust in a
container or a virtual machine.
"""

import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gptlab.errors import ConfigError
from gptlab.parallel import available_cores

PASSED = "passed"
TIMED_OUT = "timed out"
ENDED_EARLY = "ended early"
_HARNESS = Path(__file__).with_name("harness.py")


@dataclass(frozen=True)
class Program:
    """A solution, and the function `check` that is to hold it against its tests."""

    solution: str
    test: str
    """Defines `check`, which takes the solution's function and raises where it is wrong."""
    entry_point: str
    """The name of that function."""


@dataclass(frozen=True)
class Limits:
    """What a program may use at most; it may start no process at all."""

    seconds: float = 5.0
    """From its start to its end; computing on several cores, it may end a little sooner."""
    memory_bytes: int = 1 << 31
    """Address space, the interpreter's included."""
    file_bytes: int = 1 << 24
    """Size of a file."""
    open_files: int = 32


def run_programs(
    programs: Sequence[Program], *, limits: Limits, workers: int | None = None
) -> list[str]:
    """`run_program` for each of `programs`, several at a time.

    Args:
        programs: What to run.
        limits: Of each.
        workers: How many at a time; one a core if None.
    """
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        try:
            outcomes = pool.map(lambda program: run_program(program, limits=limits), programs)
            return list(tqdm(outcomes, "programs", total=len(programs), disable=None))
        except BaseException:
            # The others end within their time.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_program(program: Program, *, limits: Limits) -> str:
    """How `program` came out: "passed", "timed out", "ended early", or "raised" and what.

    It runs in a fresh interpreter, in an empty folder that is deleted afterwards, with nothing to
    read and its output thrown away, in a process group that is killed as a whole.

    Raises:
        ConfigError: This system has no limits of resources.
    """
    if os.name != "posix":
        raise ConfigError(
            "programs run under limits of resources, which this system lacks; write "
            "--samples_only FILE, and check them on Linux"
        )
    secret = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="gptlab-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile("w+", encoding="utf-8") as job,
    ):
        json.dump(_job(program, limits, secret), job)
        job.seek(0)
        word = _run(job.fileno(), folder, seconds=limits.seconds)
    if word is None:
        return TIMED_OUT
    if word == secret:
        return PASSED
    # A program may call what it raises as it likes.
    return f"raised {word}" if word else ENDED_EARLY


def _job(program: Program, limits: Limits, secret: str) -> dict[str, object]:
    """What the harness is told."""
    # Whoever waits comes first; these are for where nobody does.
    seconds = math.ceil(limits.seconds) + 1
    return {
        "solution": program.solution,
        "test": program.test,
        "entry_point": program.entry_point,
        "secret": secret,
        "alarm": seconds,
        "limits": {
            "RLIMIT_CPU": seconds,
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": 1,
        },
    }


def _run(job: int, folder: str, *, seconds: float) -> str | None:
    """What the harness says of the job in file descriptor `job`; None if that takes too long."""
    reading, writing = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(_HARNESS), str(job), str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"HOME": folder, "TMPDIR": folder, "LC_ALL": "C.UTF-8"},
                pass_fds=(job, writing),
                start_new_session=True,
            )
        finally:
            # The pipe ends when the program does.
            os.close(writing)
        try:
            return _word(reading, seconds=seconds)
        finally:
            # Before it is waited for, so that the number can't be another group's by now.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finally:
        os.close(reading)


def _word(reading: int, *, seconds: float) -> str | None:
    """What comes through the pipe first, "" if it is closed; None if that takes too long."""
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        if not selector.select(seconds):
            return None
    return os.read(reading, 64).decode("ascii", "replace")
