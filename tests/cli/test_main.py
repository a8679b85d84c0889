import errno
import os
import warnings
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.flags import CommandLine
from gptlab.cli.main import USER_ERROR, run

INSIDE = str(Path(gptlab.__file__).parent / "any.py")


def shown(command, category, filename):
    def work(_):
        warnings.warn_explicit("a\nlong line", category, filename, 7)

    return command(lambda: run(work, CommandLine, prog="gptlab-x"))


def test_a_warning_of_gptlab_is_a_plain_line(command):
    assert shown(command, UserWarning, INSIDE) == (0, "", "gptlab-x: a long line\n")


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
