"""What the project promises about itself, held against what it is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import gptlab
from gptlab.cli.train import TrainCommand

ROOT = Path(__file__).parent.parent
TEST_COMMAND = (
    'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/python -m pytest'
)


def test_ci_runs_the_test_command_as_the_readme_has_it():
    assert TEST_COMMAND in (ROOT / "README.md").read_text()
    assert TEST_COMMAND in (ROOT / ".ci" / "run").read_text()


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == gptlab.__version__


def test_every_flag_of_training_is_on_its_page():
    page = (ROOT / "docs" / "configuration.md").read_text()
    missing = [name for name in TrainCommand.model_fields if f"`--{name}`" not in page]
    assert missing == []


def loaded_modules(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_gptlab_loads_nothing_heavy():
    loaded = loaded_modules("import gptlab")
    assert not loaded & {"torch", "numpy", "pydantic", "matplotlib"}
