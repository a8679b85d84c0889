import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = ("torch", "numpy", "matplotlib")


def answer(script, *argv):
    """What a command prints in a process of its own, and what it loaded of HEAVY."""
    module, _, main = SCRIPTS[script].partition(":")
    code = (
        f"import sys\nfrom {module} import {main}\nsys.argv = ['x', *{list(argv)!r}]\n"
        f"try: {main}()\nfinally: print(*sys.modules.keys() & {set(HEAVY)}, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    error, _, loaded = run.stderr.removesuffix("\n").rpartition("\n")
    return run.returncode, run.stdout, error, loaded


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_given_without_what_is_heavy(script):
    code, out, error, loaded = answer(script, "--help")
    assert (code, error, loaded) == (0, "", "")
    assert out.startswith(f"usage: {script} ")
    assert "--config" in out


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_flag_is_answered_without_what_is_heavy(script):
    code, out, error, loaded = answer(script, "--confg", "x")
    assert (code, out, loaded) == (2, "", "")
    assert error == f"{script}: there is no flag --confg; did you mean 'config'?"
