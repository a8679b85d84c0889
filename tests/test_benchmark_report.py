import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("report")


def test_the_page_is_what_the_results_say(report):
    page = (BENCHMARKS / "README.md").read_text()
    assert page == report.page(BENCHMARKS / "results"), "run python benchmarks/report.py"


def test_each_result_has_a_renderer_and_a_script(report):
    for file in (BENCHMARKS / "results").glob("*.json"):
        benchmark = report.BENCHMARKS[json.loads(file.read_text())["benchmark"]]
        script = benchmark.command.split()[0]
        assert (BENCHMARKS.parent / script).is_file()


def test_shares_and_spreads_of_throughput(report, tmp_path):
    speeds = {
        "gptlab bf16": {"median": 3000.4, "min": 2900, "max": 3100},
        "other bf16": {"median": 2000, "min": 2000, "max": 2000},
    }
    shape = {"name": "small", "tokens_per_second": speeds, "share_of_peak": {"gptlab bf16": 0.416}}
    result = {"benchmark": "train_throughput", "device": "GPU X", "torch": "2", "shapes": [shape]}
    (tmp_path / "train_throughput-cuda.json").write_text(json.dumps(result))
    page = report.page(tmp_path)
    assert "On GPU X, torch 2:\n\nsmall:\n\n" in page
    assert "| gptlab bf16 | 3,000 (2,900–3,100) | 41.6% |\n| other bf16 | 2,000 |  |\n" in page


def test_flat_rows(report):
    rows = [{"run": "a", "tokens": 12345, "loss": 1.5}, {"run": "b", "reached": False}]
    assert str(report.time_to_loss_tables({"rows": rows})[0]) == (
        "| run | tokens | loss | reached |\n|---|--:|--:|--:|\n"
        "| a | 12,345 | 1.5 |  |\n| b |  |  | no |"
    )


def test_a_benchmark_without_a_renderer_shows_its_medians(report, tmp_path):
    figures = {"median": 2.0, "min": 1.0, "max": 3.0}
    result = {"benchmark": "new_one", "machine": {"processor": "P", "cores": 1}, "of": [figures]}
    (tmp_path / "new_one-cpu.json").write_text(json.dumps(result))
    page = report.page(tmp_path)
    assert "## New one\n\n`python benchmarks/new_one.py`\n\nOn P, 1 core:\n" in page
    assert "| of · 1 | 2 (1–3) |" in page
