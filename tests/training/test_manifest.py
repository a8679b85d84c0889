import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import gptlab
from gptlab.config import TrainConfig
from gptlab.training import manifest
from gptlab.training.manifest import git_state, read_manifest, write_manifest

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def write(folder, **changes: object) -> dict:
    settings = {"experiment_name": "tiny", "train_data": "text.txt"}
    given = {name: changes.pop(name) for name in ("max_steps", "resume") if name in changes}
    write_manifest(
        folder,
        **{
            "config": TrainConfig(**settings, **given),
            "data": {"text.txt": "ab12", "evaluation": "cd34"},
            "tokenizer": "ef56",
            "device": "CPU",
            **changes,
        },
    )
    written = read_manifest(folder)
    assert written is not None
    return written


def test_it_says_what_made_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/gptlab-train", "--train_data", "my text.txt"])
    written = write(tmp_path, max_steps=7, world_size=2, device="NVIDIA H200")
    assert TrainConfig(**written["config"]).max_steps == 7
    assert written["data"] == {"text.txt": "ab12", "evaluation": "cd34"}
    assert written["tokenizer"] == "ef56"
    (session,) = written["sessions"]
    assert session["command"] == "gptlab-train --train_data 'my text.txt'"
    assert session["world_size"] == 2
    assert session["device"] == "NVIDIA H200"
    assert session["threads"] == torch.get_num_threads()
    assert session["gptlab"] == gptlab.__version__
    assert session["torch"] == torch.__version__
    assert session["numpy"] == np.__version__
    assert session["python"] == ".".join(map(str, sys.version_info[:3]))
    assert session["after_step"] == 0
    assert session["changed"] == {}
    assert session["processor"]
    assert session["started"].endswith("+00:00")


def test_settings_of_a_moment_are_left_out(tmp_path):
    assert not {"resume", "overwrite", "quiet"} & write(tmp_path, resume=True)["config"].keys()


def test_going_on_appends_a_session_with_what_changed(tmp_path):
    first = write(tmp_path, max_steps=7)["sessions"]
    written = write(tmp_path, max_steps=9, resume=True, after_step=7)
    assert written["config"]["max_steps"] == 9
    assert written["sessions"][:-1] == first
    assert written["sessions"][-1]["after_step"] == 7
    assert written["sessions"][-1]["changed"] == {"max_steps": [7, 9]}
    assert write(tmp_path, max_steps=9, resume=True)["sessions"][-1]["changed"] == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"config": {}}'])
def test_one_that_can_not_be_read_is_made_anew(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert read_manifest(tmp_path) is None
    assert len(write(tmp_path)["sessions"]) == 1


def test_a_kill_while_it_is_written_leaves_the_former_one(tmp_path, monkeypatch):
    before = write(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tmp_path), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert read_manifest(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def git(folder, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x.org", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "file.txt").write_text("a")
    git(tmp_path, "add", "file.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


@needs_git
def test_the_state_of_the_repository(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(repository) == {"commit": commit, "branch": "trunk", "dirty": False}
    (repository / "new.txt").write_text("runs and results do not count")
    assert git_state(repository)["dirty"] is False
    (repository / "file.txt").write_text("b")
    assert git_state(repository) == {"commit": commit, "branch": "trunk", "dirty": True}


@needs_git
def test_a_commit_without_a_branch(repository):
    git(repository, "checkout", "-q", "--detach")
    state = git_state(repository)
    assert state == {"commit": git(repository, "rev-parse", "HEAD"), "branch": None, "dirty": False}


@needs_git
def test_a_repository_without_a_commit(tmp_path):
    git(tmp_path, "init", "-q", "-b", "trunk")
    assert git_state(tmp_path) == {"commit": None, "branch": "trunk", "dirty": False}


@needs_git
def test_no_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None


def test_no_git_and_git_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("git", 5)

    monkeypatch.setattr(manifest.subprocess, "run", hang)
    assert git_state(tmp_path) is None


def test_it_is_json_that_a_person_can_read(tmp_path):
    write(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    assert json.loads(text) == read_manifest(tmp_path)
    assert '\n "sessions": [\n' in text
