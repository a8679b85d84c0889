"""Whatever file operation fails or is the last one of a process, a run can go on."""

import builtins
import functools
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from gptlab.checkpoint import read_header, verify
from gptlab.config import ModelConfig, TrainConfig
from gptlab.errors import CheckpointError
from gptlab.model import GPT
from gptlab.training.checkpoints import write_checkpoints
from gptlab.training.run_creation import created_run
from gptlab.training.run_folder import choose_run
from gptlab.training.run_settings import to_text
from gptlab.training.snapshot import Snapshot

OPERATIONS = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync")
OLD, NEW = {"a_s10", "best-10", "last-10"}, {"a_s20", "best-20", "last-20"}
TOKENIZER = {"tokenizer.json": b"{}"}


class Killed(BaseException):
    """The process is no more: nothing it does has an effect."""


def no_room() -> None:
    raise OSError(28, "No space left on device")


def killed() -> None:
    raise Killed


class Faults:
    """Lets the file operation `number` of a process fail, and if it was killed all after it."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, *, kill: bool) -> None:
        self.left, self.kill, self.fired = number, kill, False
        patch.setattr(os, "fsync", lambda _descriptor: None)
        for name in OPERATIONS:
            patch.setattr(os, name, self.guarded(getattr(os, name)))
        plain = io.open
        for owner in (io, builtins):
            patch.setattr(owner, "open", lambda *a, **k: self.opened(plain, *a, **k))

    def operate(self) -> None:
        self.left -= 1
        if self.left == 0 or (self.kill and self.left < 0):
            self.fired = True
            (killed if self.kill else no_room)()

    def guarded(self, plain):
        def guard(*args, **options):
            self.operate()
            return plain(*args, **options)

        return guard

    def opened(self, plain, file, mode="r", *args, **options):
        if "r" in mode:
            return plain(file, mode, *args, **options)
        self.operate()
        stream = plain(file, mode, *args, **options)
        plain_write = stream.write

        def write(content):
            # What a full disk takes is a part.
            plain_write(content[: len(content) // 2])
            self.operate()
            return plain_write(content[len(content) // 2 :])

        guarded = MagicMock(wraps=stream, write=write)
        guarded.__enter__ = lambda guard: guard
        guarded.__exit__ = lambda _guard, *_error: stream.close()
        return guarded


@functools.cache
def snapshot(step: int) -> Snapshot:
    config = ModelConfig(vocab_size=5, embed_dim=4, n_heads=1, num_layers=1)
    model = GPT(config, seed=step)
    tensors = {"optimizer/a:b": torch.full((3,), float(step))}
    return Snapshot(
        step=step,
        architecture="gpt",
        config=config,
        model=model.state_dict(),
        trainer=tensors,
        state={"version": 2},
    )


def write(folder: Path, step: int) -> None:
    write_checkpoints(
        folder / f".last-{step}.{os.getpid()}",
        folder / f"last-{step}",
        snapshot(step),
        tokenizer=TOKENIZER,
        best=folder / f"best-{step}",
        numbered=folder / f"a_s{step}",
        keep_last=1,
    )


def config(runs: Path) -> TrainConfig:
    return TrainConfig(
        train_data="cats.txt", runs_dir=str(runs), experiment_name="a", resume=True, keep_last=1
    )


@pytest.fixture
def attempts(tmp_path, monkeypatch) -> Iterator[object]:
    """Writes step 20 over step 10, with a fault at the first operation, at the second, ..."""
    first = tmp_path / "first" / "a"
    first.mkdir(parents=True)
    write(first, 10)
    (first / "config.json").write_text(to_text(config(tmp_path)))

    def make(*, kill: bool) -> Iterator[tuple[Path, BaseException]]:
        number, fired = 0, True
        while fired:
            number += 1
            folder = tmp_path / str(number) / "a"
            shutil.copytree(first, folder)
            error: BaseException | None = None
            with monkeypatch.context() as patch:
                faults = Faults(patch, number, kill=kill)
                try:
                    write(folder, 20)
                except (CheckpointError, Killed) as raised:
                    error = raised
            fired = faults.fired
            if error is not None:
                yield folder, error
            else:
                # Failing to delete is no failure to save.
                assert {name for name in names(folder) if not name.startswith(".")} == NEW
        assert number > 40

    return make


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def assert_goes_on(folder: Path) -> None:
    """From one step or the other, with all that belongs to it and nothing else."""
    start = choose_run(config(folder.parent))
    assert start.checkpoint is not None
    step = read_header(start.checkpoint)["step"]
    with created_run(start, config(folder.parent), step=step):
        pass
    found = names(folder)
    if step == 10:
        assert found == OLD
    else:
        # Killed in between, it is the numbered one from which the run goes on.
        assert found in (NEW, {"a_s20", "best-20", "last-10"})
    for name in found:
        verify(folder / name)


def test_without_a_checkpoint_before_it_none_is_promised(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    faults = Faults(monkeypatch, 9, kill=False)
    with pytest.raises(CheckpointError, match=r"begin again with --resume; there is no checkpoint"):
        write(tmp_path / "a", 10)
    assert faults.fired


def test_a_full_disk_is_one_line_and_leaves_all_of_one_step(attempts):
    for folder, error in attempts(kill=False):
        assert isinstance(error, CheckpointError)
        assert "No space left on device; make room on its disk, and go on with" in str(error)
        assert "a/last-20 can't be written" in str(error)
        assert "\n" not in str(error)
        assert_goes_on(folder)


def test_a_kill_leaves_all_of_one_step(attempts):
    for folder, error in attempts(kill=True):
        assert isinstance(error, Killed)
        assert_goes_on(folder)
        assert not list(folder.glob(".*"))
