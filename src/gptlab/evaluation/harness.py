"""The process in which one generated program runs: limits first, then the program, then a word.

    python -I harness.py JOB_FD WORD_FD

`execution` starts it and hands over the job, as JSON, through one file descriptor. Only when the
check has returned does the job's secret go back through the other: whatever the program prints and
however it ends, it can't say that it passed. This file imports nothing of gptlab, so that it starts
in an instant.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

# What a program that is to be checked has no use for, and what would outlive or harm others.
_REFUSED = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.killpg",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "subprocess.Popen",
)


def main() -> None:
    """Run the job and leave, whatever threads there may be."""
    job_fd, word_fd = (int(word) for word in sys.argv[1:])
    with os.fdopen(job_fd, encoding="utf-8") as file:
        job = json.load(file)
    # Bound here, for the program may replace them in its modules.
    write, leave = os.write, os._exit
    _limit(job["limits"], alarm=job["alarm"])
    sys.argv = [""]
    sys.addaudithook(_refuse)
    word = _word_of(job)
    write(word_fd, word.encode("ascii", "replace")[:64])
    leave(0)


def _limit(limits: dict[str, int], *, alarm: int) -> None:
    """Set limits that can't be raised again, and end even where nobody waits any more."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    signal.alarm(alarm)


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    # RLIMIT_NPROC does not hold for root.
    if event in _REFUSED or event.startswith("socket."):
        raise PermissionError(f"{event} is refused to programs that are checked")


def _word_of(job: dict[str, Any]) -> str:
    """The secret if the check returned, else the kind of what was raised."""
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        # One by one, so that nothing left open in the solution swallows the test.
        for part in ("solution", "test"):
            exec(compile(job[part], f"<{part}>", "exec"), names)
        names["check"](names[job["entry_point"]])
    except BaseException as error:
        return type(error).__name__
    return str(job["secret"])


if __name__ == "__main__":
    main()
