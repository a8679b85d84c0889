import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import gptlab

# No test asks a hub, which its client must know before it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

TEXT = "The cat sat on the mat. The dog ran to the cat, and the cat ran away.\n" * 60
TINY_SHAPE = {"embed_dim": 16, "num_layers": 1, "n_heads": 2, "seq_len": 16}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny matrices gain nothing from a second thread and lose much when cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What runs measure of this machine is kept for the suite alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """A suite that is started in the background inherits an ignored Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def furnished(tmp_path_factory):
    """What `workplace` and `trained` are copies of: a text, a tokenizer, and a tiny trained run."""
    folder = tmp_path_factory.mktemp("furnished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "text.txt").write_text(TEXT)
        gptlab.train_bpe(["text.txt"], vocab_size=270).save("tok")
        config = gptlab.TrainConfig(
            train_data="text.txt",
            tokenizer="tok",
            experiment_name="tiny",
            max_steps=3,
            batch_size=2,
            quiet=True,
            **TINY_SHAPE,
        )
        gptlab.train(config)
    return folder


@pytest.fixture
def workplace(furnished, tmp_path, monkeypatch):
    """A folder to work in, with a text and a tokenizer that was trained on it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(furnished / "text.txt", tmp_path)
    shutil.copytree(furnished / "tok", tmp_path / "tok")
    return tmp_path


@pytest.fixture
def trained(furnished, workplace):
    """The folder of a tiny trained run in the workplace."""
    shutil.copytree(furnished / "runs", workplace / "runs")
    return Path("runs/tiny")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command's main with arguments: exit code, standard output, standard error."""

    def run(main, *argv):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        return exit_info.value.code or 0, captured.out, captured.err

    return run
