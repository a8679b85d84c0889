"""Real processes, ended by real signals."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptlab.config import TrainConfig
from gptlab.training import train
from gptlab.training.metrics import read_metrics

COMMAND = "from gptlab.cli.train import main; main()"
FILES = ("model.safetensors", "trainer/optimizer.safetensors")


@pytest.fixture
def start(tmp_path):
    """Starts gptlab-train in a process of its own, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(config: TrainConfig) -> "subprocess.Popen[str]":
        given = {name: getattr(config, name) for name in config.model_fields_set}
        given["train_data"] = given["train_data"][0]
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *(f"--{k}={v}" for k, v in given.items())],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for_records(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    while process.poll() is None and len(read_metrics(folder)) < count:
        time.sleep(0.02)


def test_a_run_killed_at_a_random_moment_goes_on_to_the_bit(tiny, start):
    usual = {"max_steps": 60, "eval_steps": 6, "log_every": 2, "dropout": 0.2, "patience": 0}
    straight = train(tiny(experiment_name="straight", **usual)).path
    folder = Path("runs/killed")
    process = start(tiny(experiment_name="killed", **usual))
    wait_for_records(process, folder, random.randrange(1, 30))
    time.sleep(random.random() / 4)
    process.kill()
    process.wait()
    resumed = train(tiny(experiment_name="killed", resume=True, **usual)).path
    assert resumed == folder
    for name in FILES:
        assert (folder / "last-60" / name).read_bytes() == (
            straight / "last-60" / name
        ).read_bytes()
    timing = {"tokens_per_second": None, "elapsed_seconds": None}
    killed_records = [record | timing for record in read_metrics(folder)]
    assert killed_records == [record | timing for record in read_metrics(straight)]
    assert (folder / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()
    assert not list(folder.glob(".*"))


def test_ctrl_c_saves_and_says_how_to_go_on(tiny, start):
    process = start(tiny(max_steps=100_000, eval_strategy="no", quiet=False))
    wait_for_records(process, Path("runs/tiny"), 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "go on with gptlab-train --resume --experiment_name tiny" in out
    (last,) = Path("runs/tiny").glob("last-*")
    assert (last / "trainer").is_dir()
    result = train(TrainConfig(experiment_name="tiny", resume=True, quiet=True, max_steps=1))
    assert result.steps == int(last.name.removeprefix("last-"))
