"""A job of several processes, each a Python of its own, for tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SECONDS = 120


class Ended(NamedTuple):
    """How a process of the job ended."""

    code: int
    output: str
    errors: str


def free_port() -> int:
    """A port at which the processes of a job can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_job(folder: Path, *, size: int, script: str) -> list[Ended]:
    """Run `script` in `size` processes, in `folder`, as torchrun would; each must end by itself."""
    path = folder / "job.py"
    path.write_text(script)
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, str(path)],
            cwd=folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        ended = []
        for process in processes:
            output, errors = process.communicate(timeout=SECONDS)
            ended.append(Ended(process.returncode, output, errors))
        return ended
    finally:
        for process in processes:
            process.kill()
            process.wait()
