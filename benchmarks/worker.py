"""Contenders that wait in processes of their own until it is their turn."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LIMIT_SECONDS = 1800


class Worker:
    """A script that says in a line of JSON that it is ready, and then what its work came to.

    It takes its task as JSON, and a number for each time that it is to work.

    Args:
        script: What to run.
        task: What it is told.
        environment: Variables that it has beside those of this process.

    Raises:
        RuntimeError: It fails; what it said last.
    """

    def __init__(
        self, script: Path, task: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
    ) -> None:
        # A pipe that nobody reads would stop a library that has much to say.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | dict(environment or {}),
        )
        try:
            self.ready = self._answer()
        except RuntimeError:
            self.close()
            raise

    def ask(self, number: int) -> dict[str, Any]:
        """What doing the work `number` times came to."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return self._answer()

    def calls(self, number: int) -> list[float]:
        """Seconds of each of some calls."""
        seconds: list[float] = self.ask(number)["seconds"]
        return seconds

    def close(self) -> None:
        """End the process, which may have ended by itself."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(_LIMIT_SECONDS, self._process.kill)
        timer.start()
        try:
            # A library may print of its own.
            for line in self._process.stdout:
                if line.startswith("{"):
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        finally:
            timer.cancel()
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or [f"exit code {code}"]
        raise RuntimeError(lines[-1])
