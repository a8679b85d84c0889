"""Runs of several processes: as one process would, killed, and resumed by another number."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from jobs import COMMAND, SECONDS, free_port, run_job, train_flags
from safetensors.torch import load_file

import gptlab
from gptlab.training.manifest import read_manifest
from gptlab.training.metrics import MEASURED, read_metrics

pytestmark = pytest.mark.usefixtures("without_plots")

SIZES = {"max_steps": 24, "eval_steps": 8, "log_every": 1, "save_every": 4, "patience": 0}
# float32 rounds to 6e-8, but Adam divides by what may be tiny.
ROUNDING = 1e-4

SYNCHRONISED = """
import torch
from gptlab.config import ModelConfig
from gptlab.model import GPT
from gptlab.training.loader import DeviceBatch
from gptlab.training.objective import Objective
from gptlab.training.parallelism import distribute, gradient_norm, resharded, synchronised
from gptlab.training.precision import Arithmetic
from gptlab.training.ranks import joined

cpu = torch.device("cpu")
shape = ModelConfig(vocab_size=11, seq_len=4, embed_dim=8, num_layers=2, n_heads=2)
tokens = torch.arange(4 * 5).view(4, 5) % 11

def made(mode, ranks):
    objective = Objective(GPT(shape, seed=0), arithmetic=Arithmetic(cpu, "fp32"))
    return objective, distribute(objective, mode=mode, ranks=ranks, device=cpu)

def of(rows):
    return DeviceBatch(tokens[rows, :-1], tokens[rows, 1:])

def whole(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient

def check(ranks):
    alone, _ = made("ddp", type(ranks)())
    alone(of(slice(4))).objective.backward()
    expected = [p.grad for p in alone.parameters()]
    for mode in ("ddp", "fsdp"):
        objective, module = made(mode, ranks)
        for part in range(2):
            with synchronised(module, last=part == 1):
                # Engines take the mean.
                sums = module(of(slice(2 * part + ranks.rank, 2 * part + ranks.rank + 1)))
                (ranks.size * sums.objective).backward()
            if mode == "ddp" and part == 0:
                own = torch.cat([p.grad.flatten() for p in objective.parameters()])
                assert not torch.equal(ranks.sum(own) / 2, own), "gradients have travelled"
        found = [whole(p.grad) for p in objective.parameters()]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        norm = gradient_norm(objective.parameters())
        torch.testing.assert_close(norm, torch.cat([g.flatten() for g in expected]).norm())
        with torch.no_grad(), resharded(module):
            torch.testing.assert_close(objective.model(tokens[:, :-1]), alone.model(tokens[:, :-1]))

with joined("cpu") as ranks:
    check(ranks)
"""

TRAIN = """
import json, os, signal
import torch
torch.set_num_threads(1)
from gptlab.config import TrainConfig
from gptlab.errors import PeerError, TrainingError
from gptlab.training import loop

plain = loop.train_step

def watched(session, forward):
    report = plain(session, forward)
    if session.ranks.rank == {rank} and session.state.step == {step}:
        os.kill(os.getpid(), signal.{signal})
    return report

loop.train_step = watched
loop.plot_run = lambda _folder: None
try:
    print(loop.train(TrainConfig(**json.loads({settings!r}))).steps)
except PeerError:
    pass
except TrainingError as error:
    print(error)
"""


def script(config, *, rank=0, step=0, end="SIGTERM"):
    given = {name: getattr(config, name) for name in config.model_fields_set}
    return TRAIN.format(rank=rank, step=step, signal=end, settings=json.dumps(given))


def test_gradients_travel_with_the_last_part_alone(tmp_path):
    for ended in run_job(tmp_path, size=2, script=SYNCHRONISED):
        assert (ended.code, ended.errors) == (0, "")


def test_a_run_goes_through_four_processes_then_two_then_one(tiny, tmp_path):
    """By fsdp and by ddp, ended by a signal to one of them and by one's death."""
    straight = gptlab.train(tiny(**SIZES, experiment_name="straight")).path
    first = tiny(**SIZES, experiment_name="moved", parallel="fsdp")
    ended = run_job(tmp_path, size=4, script=script(first, rank=2, step=9))
    assert [(process.code, process.output) for process in ended] == [(0, "9\n")] * 4
    path = Path("runs/moved")
    assert len(list((path / "last-9" / "trainer" / "shards").iterdir())) == 4

    second = tiny(**SIZES, experiment_name="moved", parallel="ddp", resume=True)
    ended = run_job(tmp_path, size=2, script=script(second, rank=1, step=18, end="SIGKILL"))
    assert [process.code for process in ended] == [0, -signal.SIGKILL]
    assert "another process of this job was lost" in ended[0].output
    assert (path / "last-16").is_dir()

    result = gptlab.train(tiny(**SIZES, experiment_name="moved", resume=True))
    assert result.steps == 24
    manifest = read_manifest(path)
    sessions = [(part["world_size"], part["after_step"]) for part in manifest["sessions"]]
    assert sessions == [(4, 0), (2, 9), (1, 16)]
    for ours, theirs in zip(read_metrics(path), read_metrics(straight), strict=True):
        assert (ours["step"], ours["split"]) == (theirs["step"], theirs["split"])
        assert ours["tokens"] == theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=ROUNDING)
    expected = load_file(straight / "last-24" / "model.safetensors")
    found = load_file(path / "last-24" / "model.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=ROUNDING)
    # From every checkpoint, whoever wrote it, a single process speaks.
    model, _ = gptlab.load(path / "moved_s8")
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())


def torchrun(config):
    engine = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    return subprocess.Popen(
        [sys.executable, *engine, "-m", "gptlab.cli.train", *train_flags(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(job):
    text = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a job in /proc")
def test_a_job_that_lost_a_process_ends_with_a_line_and_goes_on_to_the_bit(tiny, tmp_path):
    def run_to_its_end(config):
        argv = train_flags(config)
        for ended in run_job(tmp_path, size=2, script=COMMAND, argv=argv):
            assert ended.code == 0, ended.errors

    usual = {**SIZES, "max_steps": 60, "parallel": "fsdp", "dropout": 0.2, "ema_decay": 0.9}
    run_to_its_end(tiny(**usual, experiment_name="straight"))
    config = tiny(**usual, experiment_name="killed", resume=True)
    job = torchrun(config)
    folder, wanted = Path("runs/killed"), random.randrange(5, 25)
    while job.poll() is None and len(read_metrics(folder)) < wanted:
        time.sleep(0.01)
    time.sleep(random.random() / 10)
    os.kill(random.choice(processes_of(job)), signal.SIGKILL)
    errors = job.communicate(timeout=SECONDS)[1]
    assert job.returncode != 0
    ours = [line for line in errors.splitlines() if line.startswith("gptlab-train: ")]
    assert len(ours) == 1, errors
    assert "go on with the same command and --resume" in ours[0]

    run_to_its_end(config)
    runs = [folder, Path("runs/straight")]
    names = {
        str(file.relative_to(runs[1]))
        for file in (runs[1] / "last-60").rglob("*")
        if file.suffix == ".safetensors"
    }
    assert len(names) == 4
    for name in names:
        found, expected = (load_file(run / name) for run in runs)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name
    assert len({(run / "samples.txt").read_bytes() for run in runs}) == 1
    of_killed, of_straight = (
        [{k: v for k, v in record.items() if k not in MEASURED} for record in read_metrics(run)]
        for run in runs
    )
    assert of_killed == of_straight
