import json
import math

import pytest

from gptlab.training import metrics
from gptlab.training.metrics import MetricsLog, read_metrics
from gptlab.training.plots import plot_run


def record(step: int, split: str = "train", **values: object) -> dict[str, object]:
    return {"step": step, "split": split, "loss": 3.0 / (step + 1), **values}


def log(folder, steps, *, kept: int = 0) -> None:
    writer = MetricsLog(folder, kept=kept)
    for step in steps:
        writer.write(record(step))
    writer.close()


def test_records_are_lines_of_json(tmp_path):
    log(tmp_path, [1, 2])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == read_metrics(tmp_path) == [record(1), record(2)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_record_is_on_disk_once_written(tmp_path):
    writer = MetricsLog(tmp_path, kept=0)
    writer.write(record(1))
    assert read_metrics(tmp_path) == [record(1)]
    writer.close()


def test_resuming_drops_later_records(tmp_path):
    log(tmp_path, [1, 2, 3, 4])
    log(tmp_path, [3], kept=2)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_fresh_start_drops_them_all(tmp_path):
    log(tmp_path, [1, 2, 3])
    log(tmp_path, [1])
    assert read_metrics(tmp_path) == [record(1)]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_half_a_line_is_left_out(tmp_path, cut):
    log(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-cut])
    whole = 2 if cut == 1 else 1
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2][:whole]
    log(tmp_path, [3], kept=2)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [*[1, 2][:whole], 3]


def test_a_kill_while_records_are_dropped_keeps_the_former_ones(tmp_path, monkeypatch):
    log(tmp_path, [1, 2])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics, "_line", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, kept=1)
    monkeypatch.undo()
    monkeypatch.setattr(type(tmp_path), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, kept=1)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_can_not_say_is_null(tmp_path, value):
    writer = MetricsLog(tmp_path, kept=0)
    writer.write(record(1, "eval", perplexity=value))
    writer.close()
    assert read_metrics(tmp_path)[0]["perplexity"] is None
    plot_run(tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["val_loss.png"]
