import warnings
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.main import CommandLine, run

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
