"""The benchmarks of fine-tuning and of loading, on a tiny model and in one process."""

import importlib
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TEXT = "".join(path.read_text() for path in sorted(BENCHMARKS.glob("*.py")))


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    # The benchmark sets it for the processes that it starts.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    return importlib.import_module


@pytest.fixture
def run_quickly(load, monkeypatch, capsys):
    """Run a benchmark with its tasks in this process; the rows of its tables."""

    def run(name, *flags, failing=None):
        benchmark, task, measure = load(name), load(f"{name}_task"), load("measure")

        def run_task(_script, given, *, cores):
            if given["library"] == failing:
                raise RuntimeError(f"exit code 1 from the task {given}")
            return measure.Run(task.measure(given), 0.0, 0, 0)

        monkeypatch.setattr(benchmark, "run_task", run_task)
        # All that is installed takes seconds to look through.
        monkeypatch.setattr(benchmark, "source_text", lambda _vocab_size: TEXT)
        monkeypatch.setattr(sys, "argv", [name, "--quick", *flags])
        benchmark.main()
        lines = capsys.readouterr().out.splitlines()
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        return [row for row in cells if row]

    return run


def row(way, library, losses, **changes):
    return {
        "way": way,
        "precision": "fp32",
        "name": library,
        "library": library,
        "compiled": False,
        "tokens_per_second": {"median": 10.0, "min": 10.0, "max": 10.0},
        "trained_parameters": 3,
        "gradient_bytes": 4,
        "optimizer_bytes": 8,
        "peak_mb": {"median": 2.0, "min": 2.0, "max": 2.0},
        "losses": losses,
        **changes,
    }


def test_gptlab_and_its_peer_learn_the_same(run_quickly):
    rows = run_quickly("finetune")
    names = [cells[0] for cells in rows]
    assert "lora: transformers + peft" in names
    assert "lora-int8: gptlab" in names
    agreements = {cells[0]: cells[-1] for cells in rows if cells[-1] in ("yes", "no")}
    assert agreements == {f"fp32, {way}": "yes" for way in ("full", "last-2", "lora")}


def test_who_fails_is_so_recorded(run_quickly):
    rows = run_quickly("finetune", "--ways", "full", failing="transformers")
    assert ["full: transformers", "failed: exit code 1", "", "", "", ""] in rows
    assert not any(cells[-1] in ("yes", "no") for cells in rows)


@pytest.mark.parametrize(
    ("changes", "agree"),
    [({}, True), ({"losses": [5.0, 4.1]}, False), ({"trained_parameters": 4}, False)],
)
def test_libraries_agree_within_the_bound_on_as_many_weights(load, changes, agree):
    ours, theirs = row("full", "gptlab", [5.0, 4.0]), row("full", "transformers", [5.0, 4.0005])
    (check,) = load("finetune").checks([ours, {**theirs, **changes}])
    assert check["agree"] is agree


def test_claims_compare_the_fastest_of_each(load):
    slow, fast = ({"median": speed} for speed in (10.0, 30.0))
    rows = [
        row("full", "gptlab", [], tokens_per_second=slow),
        row("full", "gptlab", [], tokens_per_second=fast, compiled=True, peak_mb={"median": 3.0}),
        row("lora", "gptlab", [], tokens_per_second=fast, gradient_bytes=1, optimizer_bytes=2),
        row("full", "transformers", [], tokens_per_second=slow),
    ]
    full, lora = load("finetune").claims(rows)
    assert (full["speed_of_peer"], full["peak_of_peer"]) == (3.0, 1.5)
    assert (lora["kept_of_full"], lora["speed_of_full"]) == (0.25, 1.0)
    assert "speed_of_full" not in full
    assert "speed_of_peer" not in lora


def test_every_contender_loads_the_weights_of_its_file(run_quickly):
    rows = run_quickly("loading")
    for name in ("gptlab, folder of Hugging Face", "gptlab, its checkpoint", "transformers"):
        found = [cells for cells in rows if cells[0] == name]
        assert len(found) == 2
        assert all(re.fullmatch(r"\d+\.\d\d", cells[1]) for cells in found)
