import json
import os
import resource
import signal
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.inspect import main
from gptlab.config import HeadSettings
from gptlab.model.heads import add_head

FLAGS = ["--device", "cpu", "--precision", "fp32"]
PAGE = Path("runs/tiny/inspect/loss.html")


def test_the_text_of_the_run_and_again(trained, command):
    for _ in range(2):
        code, out, err = command(main, "tiny", *FLAGS)
        assert (code, err) == (0, "")
        assert "nats per token" in out
        assert out.splitlines()[-1].startswith("written to runs/tiny/inspect: ")
        assert "runs/tiny/last-3" in PAGE.read_text()
    assert not list(Path("runs/tiny").glob(".inspect*"))


def test_two_models_side_by_side(trained, command):
    model, tokenizer = gptlab.load(trained)
    gptlab.save("other", gptlab.GPT(model.config, seed=1), tokenizer)
    argv = ["other", "tiny", "--text", "The dog sat.", "--output", "both"]
    code, out, err = command(main, *argv, *FLAGS)
    assert (code, err) == (0, "")
    assert out.count("nats per token") == 2
    page = Path("both/loss.html").read_text()
    assert page.index("other") < page.index("runs/tiny/last-3")
    assert "difference" in page


def test_a_checkpoint_alone_and_a_text_from_a_file(trained, command):
    model, tokenizer = gptlab.load(trained)
    Path("models").mkdir()
    gptlab.save("models/alone", model, tokenizer)
    code, out, _ = command(main, "models/alone", "--text_file", "text.txt", *FLAGS)
    assert code == 0
    assert "written to models/inspect: " in out
    code, _, err = command(main, "models/alone", *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "models/alone lies in no run" in err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "it takes one model or two to inspect, not 0; name a run or a checkpoint, as in"),
        (["tiny", "tiny", "x"], "it takes one model or two to inspect, not 3"),
        (["tiny", "tiny"], "both are runs/tiny/last-3; give two different models"),
        (["none"], "none does not exist; give a run, a checkpoint folder"),
        (["tiny", "--text", ""], "text is '', but"),
        (["tiny", "--text", "T"], "the text has 1 token(s), but it takes at least 2"),
        (["tiny", "--text", "x", "--text_file", "y"], "--text and --text_file exclude each other"),
        (["tiny", "--text_file", "none.txt"], "there is no file none.txt; name one, or give the"),
        (["tiny", "--text_file", "binary"], "binary is no UTF-8 text, for byte 1 is 0xff; name a"),
        (["tiny", "--text_file", "empty.txt"], "empty.txt is empty; write the beginning of a"),
        (["tiny", "--output", "text.txt"], "text.txt is no folder; write --output with the name"),
        (["tiny", "--output", "tok"], "tok holds "),
        (["tiny", "--output", "text.txt/x"], "text.txt/x can't be written: Not a directory; "),
        (["tiny", "--max_tokens", "0"], "max_tokens is '0', but"),
    ],
)
def test_a_mistake_is_one_line(trained, command, argv, line):
    Path("empty.txt").touch()
    Path("binary").write_bytes(b"a\xff")
    code, out, err = command(main, *argv, *FLAGS)
    assert (code, out) == (2, "")
    assert err.startswith(f"gptlab-inspect: {line}")
    assert len(err.splitlines()) == 1
    assert not PAGE.exists()


def test_a_model_with_a_head_is_refused(trained, command):
    model, tokenizer = gptlab.load(trained)
    add_head(model, HeadSettings(head="embedding"))
    gptlab.save("head", model, tokenizer)
    code, _, err = command(main, "head", "--text", "The cat", *FLAGS)
    assert code == 2
    assert "is no language model, for it has a head of another kind (embedding)" in err


def test_what_is_not_its_own_stays(trained, command):
    argv = ["tiny", "--text", "The cat sat.", "--output", "out", *FLAGS]
    assert command(main, *argv)[0] == 0
    Path("out/notes.txt").write_text("mine")
    code, _, err = command(main, *argv)
    assert (code, err) == (
        2,
        "gptlab-inspect: out holds notes.txt, which gptlab-inspect did not write; choose another "
        "--output\n",
    )
    Path("out/notes.txt").unlink()
    manifest = json.loads(Path("out/inspect.json").read_text())
    assert {*manifest["files"], "inspect.json"} == {p.name for p in Path("out").rglob("*.*")}
    assert command(main, *argv)[0] == 0


def test_a_full_disk_leaves_nothing(trained, command):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code, _, err = command(main, "tiny", "--text", "The cat sat.", "--output", "out", *FLAGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert code == 2
    assert err == "gptlab-inspect: out can't be written: File too large; make room on its disk\n"
    assert not list(Path().glob("*out*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(trained, command):
    Path("locked").mkdir(mode=0o500)
    code, _, err = command(main, "tiny", "--text", "The cat", "--output", "locked/out")
    assert (code, err.count("\n")) == (2, 1)
    assert "locked/out can't be written: Permission denied" in err


def test_ctrl_c_is_one_line_and_leaves_nothing(trained, command, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gptlab.evaluation.loss_page.loss_page", interrupted)
    assert command(main, "tiny", *FLAGS) == (130, "", "gptlab-inspect: interrupted\n")
    assert not list(Path("runs/tiny").glob("*inspect*"))
