"""Processes of their own for tests, alone or as a job, each ended by itself or by a signal.

They are forked by a server that has imported what training needs, which is most of the time of a
tiny run.
"""

import os
import runpy
import socket
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import torch

from gptlab.config import TrainConfig

SECONDS = 120
FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(["gptlab.training.trainer", "gptlab.cli.train"])


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None
    output: str
    errors: str


class Started:
    """A process that runs a script, like a Python of its own in `folder`."""

    def __init__(
        self,
        script: str,
        argv: Sequence[str] = (),
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._files = Path(mkdtemp(dir=folder))
        (self._files / "script.py").write_text(script)
        arguments = (self._files, argv, folder, dict(environment or {}))
        self.process: ForkServerProcess = FORKED.Process(target=_run, args=arguments)
        self.process.start()

    @property
    def runs(self) -> bool:
        return self.process.is_alive()

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> Ended:
        """Waits for its end, which must come by itself."""
        self.process.join(SECONDS)
        texts = [(self._files / name).read_text() for name in ("output", "errors")]
        assert not self.runs, texts
        return Ended(self.process.exitcode, *texts)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _run(files: Path, argv: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    for name, number in (("output", 1), ("errors", 2)):
        with (files / name).open("w") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = ["script", *argv]
    runpy.run_path(str(files / "script.py"), run_name="__main__")


COMMAND = "from gptlab.cli.train import main; main()"


def train_flags(config: TrainConfig) -> list[str]:
    """The arguments by which gptlab-train has the settings that were given."""
    given = {name: getattr(config, name) for name in config.model_fields_set}
    given["train_data"] = given["train_data"][0]
    return [f"--{name}={value}" for name, value in given.items()]


def free_port() -> int:
    """A port at which the processes of a job can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_job(folder: Path, *, size: int, script: str, argv: Sequence[str] = ()) -> list[Ended]:
    """Run `script` in `size` processes, in `folder`, as torchrun would; each must end by itself."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        Started(
            script,
            argv,
            folder=folder,
            environment={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                **meeting,
            },
        )
        for rank in range(size)
    ]
    try:
        return [process.ended() for process in started]
    finally:
        for process in started:
            process.kill()
