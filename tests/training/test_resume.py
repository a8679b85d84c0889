"""Stopped and resumed is the same as never stopped, to the last bit."""

import json
import signal
from pathlib import Path

import pytest

import gptlab
from gptlab.config import TrainConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.training import loop, train
from gptlab.training.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("without_plots")

TIMING = ("tokens_per_second", "elapsed_seconds")


def records(folder: Path) -> list[dict[str, object]]:
    return [
        {name: value for name, value in record.items() if name not in TIMING}
        for record in read_metrics(folder)
    ]


def assert_same_run(folder: Path, straight: Path) -> None:
    def checkpoints(run: Path) -> set[str]:
        return {path.name.replace(run.name, "NAME") for path in run.iterdir() if path.is_dir()}

    assert checkpoints(folder) == checkpoints(straight)
    for checkpoint in (path for path in straight.iterdir() if path.is_dir()):
        other = folder / checkpoint.name.replace(straight.name, folder.name)
        for file in checkpoint.rglob("*.safetensors"):
            name = file.relative_to(checkpoint)
            assert (other / name).read_bytes() == file.read_bytes(), (checkpoint.name, name)
    assert records(folder) == records(straight)
    assert (folder / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()


@pytest.fixture
def longer(tiny):
    """Settings of a run of a few epochs, with dropout, evaluations and checkpoints."""

    def make(**changes: object):
        usual = {"max_steps": 30, "eval_steps": 8, "log_every": 3, "dropout": 0.2, "seed": 5}
        return tiny(**{**usual, "save_every_epochs": 1, "patience": 0, **changes})

    return make


def stop_after(monkeypatch, step: int, action) -> None:
    plain = loop.train_step

    def stopping(session, forward):
        result = plain(session, forward)
        if session.state.step == step:
            action()
        return result

    monkeypatch.setattr(loop, "train_step", stopping)


def killed() -> None:
    raise MemoryError


@pytest.mark.parametrize("step", [1, 8, 17, 29])
def test_an_interrupted_run_goes_on_to_the_bit(longer, monkeypatch, step):
    straight = train(longer(experiment_name="straight"))
    with monkeypatch.context() as patch:
        stop_after(patch, step, lambda: signal.raise_signal(signal.SIGINT))
        stopped = train(longer(experiment_name="stopped"))
    assert (stopped.interrupted, stopped.steps) == (True, step)
    assert (stopped.path / f"last-{step}").is_dir()
    resumed = train(longer(experiment_name="stopped", resume=True))
    assert (resumed.interrupted, resumed.steps) == (False, 30)
    assert resumed.eval_loss == straight.eval_loss
    assert_same_run(resumed.path, straight.path)


@pytest.mark.parametrize("step", [2, 16, 20, 30])
def test_a_run_that_died_between_checkpoints_goes_on_to_the_bit(longer, monkeypatch, step):
    straight = train(longer(experiment_name="straight"))
    with monkeypatch.context() as patch:
        stop_after(patch, step, killed)
        with pytest.raises(MemoryError):
            train(longer(experiment_name="stopped"))
    resumed = train(longer(experiment_name="stopped", resume=True))
    assert_same_run(resumed.path, straight.path)


@pytest.mark.parametrize(
    ("victim", "call"), [("save_best", 2), ("save_numbered", 1), ("save_last", 2), ("plot_run", 2)]
)
def test_a_run_that_died_while_it_wrote_goes_on_to_the_bit(longer, monkeypatch, victim, call):
    straight = train(longer(experiment_name="straight"))
    plain = getattr(loop, victim)
    calls = []

    def dying(subject):
        calls.append(subject)
        if len(calls) == call:
            raise MemoryError
        plain(subject)

    with monkeypatch.context() as patch:
        patch.setattr(loop, victim, dying)
        with pytest.raises(MemoryError):
            train(longer(experiment_name="stopped"))
    resumed = train(longer(experiment_name="stopped", resume=True))
    assert_same_run(resumed.path, straight.path)


def test_resuming_twice_and_needing_no_settings(longer, monkeypatch):
    straight = train(longer(experiment_name="straight"))
    config = longer(experiment_name="stopped")
    for step in (7, 19):
        with monkeypatch.context() as patch:
            stop_after(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
            train(config)
        config = type(config)(experiment_name="stopped", resume=True, quiet=True)
    assert_same_run(train(config).path, straight.path)


def test_other_settings_are_refused_by_name_and_change_nothing(longer):
    path = train(longer()).path
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match=r"batch_size \(4, not 5\), dropout \(0.2, not 0.0\)"):
        train(longer(resume=True, batch_size=5, dropout=0.0))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_resuming_where_there_is_nothing_starts_afresh(longer):
    result = train(longer(resume=True, max_steps=3))
    assert (result.steps, result.interrupted) == (3, False)


def test_resuming_a_run_that_died_before_its_first_checkpoint(longer, monkeypatch):
    straight = train(longer(experiment_name="straight"))
    with monkeypatch.context() as patch:
        stop_after(patch, 4, killed)
        with pytest.raises(MemoryError):
            train(longer(experiment_name="stopped"))
    assert steps(Path("runs/stopped")) == [3]
    resumed = train(longer(experiment_name="stopped", resume=True))
    assert_same_run(resumed.path, straight.path)


def steps(folder: Path) -> list[object]:
    return [record["step"] for record in records(folder)]


def test_a_finished_run_can_go_on_for_longer(longer):
    train(longer(max_steps=6))
    result = train(longer(max_steps=9, resume=True))
    assert result.steps == 9
    assert steps(result.path) == sorted(steps(result.path))
    assert {record["step"] for record in records(result.path)} >= {3, 6, 9}


def test_resuming_a_finished_run_changes_no_model(longer, capsys):
    first = train(longer(max_steps=6))
    weights = (first.path / "last-6" / "model.safetensors").read_bytes()
    second = train(longer(max_steps=6, resume=True, quiet=False))
    assert (second.steps, second.eval_loss) == (6, first.eval_loss)
    assert (first.path / "last-6" / "model.safetensors").read_bytes() == weights
    assert "done after 6 steps" in capsys.readouterr().out


def test_fewer_steps_than_were_taken_are_done(longer, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, 5, lambda: signal.raise_signal(signal.SIGINT))
        train(longer())
    result = train(longer(max_steps=4, resume=True, quiet=False))
    assert (result.steps, result.eval_loss) == (5, None)
    assert "done after 5 steps" in capsys.readouterr().out


def test_another_text_is_refused(longer):
    train(longer(max_steps=6))
    Path("cats.txt").write_text(Path("cats.txt").read_text().replace("cat", "dog"))
    with pytest.raises(
        ConfigError, match=r"cats.txt was prepared again or has changed since .*last-6 was sav"
    ) as e:
        train(longer(max_steps=9, resume=True))
    assert "\n" not in str(e.value)


def test_the_text_may_move(longer):
    train(longer(max_steps=6))
    Path("cats.txt").rename("moved.txt")
    Path("cats.txt").symlink_to("moved.txt")
    assert train(longer(max_steps=9, resume=True)).steps == 9


def test_a_damaged_checkpoint_is_refused_and_nothing_starts_afresh(longer):
    path = train(longer(max_steps=6)).path
    weights = path / "last-6" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last-6/model.safetensors is damaged"):
        train(longer(max_steps=6, resume=True))
    (path / "last-6" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"last-6/config.json is damaged"):
        train(longer(max_steps=6, resume=True))
    assert steps(path)[-1] == 6


def test_a_tokenizer_below_the_asked_size_resumes_with_the_same_command(tiny):
    Path("cats.txt").write_text("abc\n" * 200)
    config = {"vocab_size": 5000, "max_steps": 4}
    path = train(tiny(**config)).path
    assert json.loads((path / "config.json").read_text())["vocab_size"] < 300
    assert train(tiny(**config, resume=True)).steps == 4


def test_a_run_that_died_before_its_first_checkpoint_starts_again_as_it_was(longer, monkeypatch):
    straight = train(longer(experiment_name="straight"))
    with monkeypatch.context() as patch:
        stop_after(patch, 1, killed)
        with pytest.raises(MemoryError):
            train(longer(experiment_name="stopped"))
    bare = TrainConfig(experiment_name="stopped", resume=True, quiet=True)
    assert_same_run(train(bare).path, straight.path)


def test_the_attention_backend_may_change(longer, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, lambda: signal.raise_signal(signal.SIGINT))
        train(longer(experiment_name="stopped", attention="sdpa"))
    seen = []
    plain = loop.train_step
    monkeypatch.setattr(
        loop, "train_step", lambda s, f: (seen.append(s.model.config.attention), plain(s, f))[1]
    )
    train(longer(experiment_name="stopped", attention="reference", resume=True))
    assert set(seen) == {"reference"}


def test_quiet_is_not_remembered(longer, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, lambda: signal.raise_signal(signal.SIGINT))
        stopped = train(longer(experiment_name="stopped"))
    assert capsys.readouterr().out == ""
    train(TrainConfig(experiment_name=stopped.path.name, resume=True, max_steps=2))
    assert "done after 2 steps" in capsys.readouterr().out


def test_an_interrupt_at_an_evaluation_saves_once(longer, monkeypatch):
    saved = []
    plain = loop.save_last
    monkeypatch.setattr(loop, "save_last", lambda s: (saved.append(s.state.step), plain(s)))
    stop_after(monkeypatch, 8, lambda: signal.raise_signal(signal.SIGINT))
    train(longer(experiment_name="stopped"))
    assert saved.count(8) == 1


def test_a_changed_evaluation_text_is_refused(longer, monkeypatch, tmp_path):
    (tmp_path / "dev.txt").write_text("the cat sat on mat 1 and saw 2 mice\n" * 9)
    given = {"experiment_name": "stopped", "eval_data": "dev.txt"}
    with monkeypatch.context() as patch:
        stop_after(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        train(longer(**given))
    (tmp_path / "dev.txt").write_text("the cat sat on mat 2 and saw 3 mice\n" * 9)
    with pytest.raises(ConfigError, match=r"dev\.txt was prepared again or has changed"):
        train(longer(**given, resume=True))


def test_checkpoints_of_steps_that_were_lost_are_dropped(longer, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 12, lambda: signal.raise_signal(signal.SIGINT))
        stopped = train(longer(experiment_name="stopped"))
    model, _ = gptlab.load(stopped.path)
    for name in ("best-99", "stopped_e99", "kept-99"):
        gptlab.save(stopped.path / name, model, step=99)
    # As if killed between saving the best and saving the last.
    train(longer(experiment_name="stopped", resume=True, max_steps=13))
    found = {path.name for path in stopped.path.iterdir()}
    assert "kept-99" in found
    assert not found & {"best-99", "stopped_e99"}
