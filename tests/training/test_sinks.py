import sys
from types import ModuleType, SimpleNamespace

import pytest

from gptlab.config import TrainConfig
from gptlab.errors import ConfigError
from gptlab.training.metrics import MetricsLog, read_metrics
from gptlab.training.sinks import TensorBoard, WandB, open_sinks, require_sinks

RECORD = {"step": 3, "split": "train", "loss": 2.5, "mfu": None}


class Remembering:
    """A sink that keeps what it was told."""

    def __init__(self) -> None:
        self.records, self.closed = [], 0

    def write(self, record) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1


class StandIn(ModuleType):
    """Weights & Biases as far as a run knows it."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs, self.refuses = [], False
        self.Settings = SimpleNamespace

    def init(self, **given):
        if self.refuses:
            raise self.Error("no API key\nconfigured")
        run = SimpleNamespace(given=given, logged=[], metrics=[], finished=0)
        run.log = run.logged.append
        run.define_metric = lambda name, step_metric: run.metrics.append((name, step_metric))

        def finish() -> None:
            run.finished += 1

        run.finish = finish
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def config(**changes: object) -> TrainConfig:
    return TrainConfig(experiment_name="tiny", **changes)


def test_without_a_wish_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    require_sinks(config())
    assert open_sinks(config(), tmp_path, 0) == ()


@pytest.mark.parametrize(
    ("module", "name"), [("torch.utils.tensorboard", "tensorboard"), ("wandb", "wandb")]
)
def test_a_missing_package_is_one_line_before_any_work(tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    wish = config(**{name: True})
    line = f"--{name} needs the {name} package; pip install {name}"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        require_sinks(wish)
    with pytest.raises(ConfigError, match=f"^{line}$"):
        open_sinks(wish, tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_both_at_once(tmp_path, wandb):
    pytest.importorskip("tensorboard")
    sinks = open_sinks(config(tensorboard=True, wandb=True), tmp_path, 0)
    assert {type(sink) for sink in sinks} == {TensorBoard, WandB}
    for sink in sinks:
        sink.close()


def test_sinks_are_told_what_is_written_and_closed_once(tmp_path):
    sinks = [Remembering(), Remembering()]
    log = MetricsLog(tmp_path, kept=0, sinks=sinks)
    log.write(RECORD)
    log.close()
    assert [(sink.records, sink.closed) for sink in sinks] == [([RECORD], 1)] * 2
    assert read_metrics(tmp_path) == [RECORD]


def test_a_sink_that_fails_to_close_leaves_no_other_open(tmp_path):
    class Failing(Remembering):
        def close(self) -> None:
            raise OSError("full")

    last = Remembering()
    log = MetricsLog(tmp_path, kept=0, sinks=[last, Failing(), last])
    with pytest.raises(OSError, match="full"):
        log.close()
    assert last.closed == 2


def test_tensorboard_has_the_numbers_of_each_split(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path, 0)
    board.write(RECORD)
    board.write({"step": 3, "split": "eval", "loss": 2.0, "note": "text"})
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "eval/loss"}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 2.5)]


def test_tensorboard_hides_what_came_after_the_step_to_go_on_from(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for after_step, steps in ((0, [1, 2, 3]), (1, [2])):
        board = TensorBoard(tmp_path, after_step)
        for step in steps:
            board.write({"step": step, "split": "train", "loss": float(after_step)})
        board.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert shown == [(1, 0.0), (2, 1.0)]


def test_wandb_gets_settings_and_records(tmp_path, wandb):
    sink = WandB(config(batch_size=5, quiet=True), tmp_path)
    sink.write(RECORD)
    sink.write({"step": 3, "split": "eval", "loss": 2.0})
    sink.close()
    (run,) = wandb.runs
    assert run.given["project"] == "gptlab"
    assert run.given["name"] == tmp_path.name
    assert run.given["dir"] == str(tmp_path)
    assert run.given["config"]["batch_size"] == 5
    assert run.given["settings"].silent
    assert run.logged == [{"step": 3, "train/loss": 2.5}, {"step": 3, "eval/loss": 2.0}]
    assert run.metrics == [("*", "step")]
    assert run.finished == 1


def test_a_run_that_goes_on_is_the_same_one_over_there(tmp_path, wandb):
    for _ in range(2):
        WandB(config(), tmp_path).close()
    first, second = (run.given for run in wandb.runs)
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text().strip()
    assert first["resume"] == "allow"
    (tmp_path / "other").mkdir()
    WandB(config(), tmp_path / "other").close()
    assert wandb.runs[-1].given["id"] != first["id"]


def test_the_environment_names_another_project(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    WandB(config(), tmp_path).close()
    assert wandb.runs[0].given["project"] == "mine"


def test_wandb_that_refuses_is_one_line(tmp_path, wandb):
    wandb.refuses = True
    with pytest.raises(ConfigError) as error:
        WandB(config(), tmp_path)
    assert str(error.value) == (
        "--wandb: Weights & Biases refuses (no API key configured); run 'wandb login', or set "
        "WANDB_MODE=offline"
    )
