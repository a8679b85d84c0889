import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def answer(script, *argv):
    """What a command prints in a process of its own, and whether it loaded torch."""
    module, _, main = SCRIPTS[script].partition(":")
    code = (
        f"import sys\nfrom {module} import {main}\nsys.argv = ['x', *{list(argv)!r}]\n"
        f"try: {main}()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    error, _, torch_is_loaded = run.stderr.rstrip("\n").rpartition("\n")
    return run.returncode, run.stdout, error, torch_is_loaded == "True"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_given_without_torch(script):
    code, out, error, torch_is_loaded = answer(script, "--help")
    assert (code, error, torch_is_loaded) == (0, "", False)
    assert out.startswith(f"usage: {script} ")
    assert "--config" in out


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_flag_is_answered_without_torch(script):
    code, out, error, torch_is_loaded = answer(script, "--confg", "x")
    assert (code, out, torch_is_loaded) == (2, "", False)
    assert error == f"{script}: there is no flag --confg; did you mean 'config'?"
