"""Real processes, ended by real signals."""

import random
import signal
import time
from pathlib import Path

import pytest
from jobs import COMMAND, Started, train_flags

from gptlab.config import TrainConfig
from gptlab.training import train
from gptlab.training.metrics import MEASURED, read_metrics

KILLS = 4


@pytest.fixture
def start(tmp_path):
    """Starts gptlab-train in a process of its own, which ends with the test."""
    started: list[Started] = []

    def begin(config: TrainConfig) -> Started:
        started.append(Started(COMMAND, train_flags(config), folder=tmp_path))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def wait_for_records(process: Started, folder: Path, count: int) -> None:
    while process.runs and len(read_metrics(folder)) < count:
        time.sleep(0.02)


def test_a_run_killed_again_and_again_goes_on_to_the_bit(tiny, start):
    """Within epochs and parts of batches, in evaluations, while it saves, and before it has begun.

    With dropout, fp16 and its scale, two optimizers, and an average of the weights.
    """
    usual = {
        "max_steps": 60,
        "eval_steps": 6,
        "save_every": 4,
        "keep_last": 2,
        "log_every": 2,
        "patience": 0,
        "dropout": 0.2,
        "gradient_accumulation_steps": 3,
        "precision": "fp16",
        "optimizer": "muon",
        "ema_decay": 0.9,
        "compile": "off",
    }
    straight = train(tiny(experiment_name="straight", **usual)).path
    config = tiny(experiment_name="killed", resume=True, **usual)
    folder = Path("runs/killed")
    for _ in range(KILLS):
        process = start(config)
        wait_for_records(process, folder, len(read_metrics(folder)) + random.randrange(12))
        time.sleep(random.random() / 4)
        process.kill()
    assert train(config).path == folder
    checkpoints = sorted(path.name for path in straight.iterdir() if path.is_dir())
    assert len(checkpoints) == 4
    for name in checkpoints:
        ours = folder / name.replace("straight", "killed")
        for file in (straight / name).rglob("*.safetensors"):
            found = (ours / file.relative_to(straight / name)).read_bytes()
            assert found == file.read_bytes(), file
    timing = dict.fromkeys(MEASURED)
    killed_records = [record | timing for record in read_metrics(folder)]
    assert killed_records == [record | timing for record in read_metrics(straight)]
    assert (folder / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()
    assert not list(folder.glob(".*"))


def test_ctrl_c_saves_and_says_how_to_go_on(tiny, start):
    process = start(tiny(max_steps=100_000, eval_strategy="no", compile="off", quiet=False))
    wait_for_records(process, Path("runs/tiny"), 2)
    process.send(signal.SIGINT)
    ended = process.ended()
    assert ended.code == 130
    assert "Traceback" not in ended.errors
    assert "go on with gptlab-train --resume --experiment_name tiny" in ended.output
    (last,) = Path("runs/tiny").glob("last-*")
    assert (last / "trainer").is_dir()
    step = int(last.name.removeprefix("last-"))
    result = train(TrainConfig(experiment_name="tiny", resume=True, quiet=True, max_steps=step + 1))
    assert result.steps == step + 1
