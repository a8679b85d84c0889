import errno
import os
import warnings
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.flags import CommandLine
from gptlab.cli.main import INTERNAL_ERROR, USER_ERROR, run
from gptlab.errors import PeerError, TrainingError

INSIDE = str(Path(gptlab.__file__).parent / "any.py")


def shown(command, category, filename):
    def work(_):
        warnings.warn_explicit("a\nlong line", category, filename, 7)

    return command(lambda: run(work, CommandLine, prog="gptlab-x"))


def test_a_warning_of_gptlab_is_a_plain_line(command):
    assert shown(command, UserWarning, INSIDE) == (0, "", "gptlab-x: warning: a long line\n")


@pytest.mark.parametrize(
    ("category", "filename"), [(FutureWarning, INSIDE), (UserWarning, "/elsewhere/any.py")]
)
def test_other_warnings_are_as_ever(command, category, filename):
    with pytest.warns(category, match="a\nlong line") as caught:
        code, out, err = shown(command, category, filename)
    assert (code, out, err) == (0, "", "")
    assert caught[0].filename == filename


def test_outside_of_a_command_nothing_changes(command):
    shown(command, UserWarning, INSIDE)
    with pytest.warns(UserWarning, match="later"):
        warnings.warn_explicit("later", UserWarning, INSIDE, 7)


def failed(command, error):
    def work(_):
        raise error

    return command(lambda: run(work, CommandLine, prog="gptlab-x"))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space on that disk, or write to another one"),
        (errno.EDQUOT, "free some of your space on that disk, or write to another one"),
        (errno.EACCES, "change its permissions, or choose another place"),
        (errno.EROFS, "choose another place"),
    ],
)
def test_what_the_system_refuses_comes_with_a_remedy(command, number, remedy):
    said = os.strerror(number)
    assert failed(command, OSError(number, said)) == (
        USER_ERROR,
        "",
        f"gptlab-x: {said}; {remedy}\n",
    )
    assert failed(command, OSError(number, said, "a/b")) == (
        USER_ERROR,
        "",
        f"gptlab-x: a/b: {said}; {remedy}\n",
    )


def test_a_missing_file_is_said_plainly(command):
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "a.txt")
    assert failed(command, error)[2] == "gptlab-x: a.txt: No such file or directory\n"


def test_an_error_of_a_package_says_what_it_has(command):
    code, _, err = failed(command, OSError("half a\nheader"))
    assert (code, err) == (
        USER_ERROR,
        "gptlab-x: OSError: half a header; run again with --debug for the traceback\n",
    )


@pytest.fixture(params=[0, 1])
def rank(request, monkeypatch):
    """Of two processes of a job, the one that this is."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(request.param))
    return request.param


def test_one_process_of_a_job_shows_what_is_wrong_with_the_command(command, rank):
    code, out, err = command(lambda: run(lambda _: 0, CommandLine, prog="gptlab-x"), "--confg", "x")
    assert (code, out) == (USER_ERROR, "")
    assert len(err.splitlines()) == (1 if rank == 0 else 0)


def test_one_process_of_a_job_shows_a_warning(command, rank):
    assert bool(shown(command, UserWarning, INSIDE)[2]) == (rank == 0)


@pytest.mark.usefixtures("rank")
def test_a_process_that_fails_says_why_and_its_peers_do_not(command):
    assert failed(command, TrainingError("it broke")) == (USER_ERROR, "", "gptlab-x: it broke\n")
    assert failed(command, ValueError("odd"))[0] == INTERNAL_ERROR
    assert failed(command, PeerError("process 1 of this job has failed")) == (USER_ERROR, "", "")


def test_alone_a_rank_means_nothing(command, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    code, _, err = command(lambda: run(lambda _: 0, CommandLine, prog="gptlab-x"), "--confg", "x")
    assert code == USER_ERROR
    assert "there is no flag --confg" in err
