"""Stopped and resumed is the same as never stopped, to the last bit."""

import json
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import gptlab
from gptlab.checkpoint import find_checkpoint
from gptlab.config import TrainConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.training import checkpoints, examine, loop, train
from gptlab.training.metrics import MEASURED, read_metrics

pytestmark = pytest.mark.usefixtures("without_plots")


def records(folder: Path) -> list[dict[str, object]]:
    return [
        {name: value for name, value in record.items() if name not in MEASURED}
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


@pytest.fixture
def saved(monkeypatch) -> list[str]:
    """The names of what is saved, in order."""
    names = []
    plain = checkpoints.write_checkpoints

    def writing(staging, target, *args, **options):
        names.append(target.name)
        plain(staging, target, *args, **options)

    monkeypatch.setattr(checkpoints, "write_checkpoints", writing)
    return names


def stop_after(monkeypatch, step: int, action) -> None:
    plain = loop.train_step

    def stopping(session, forward):
        result = plain(session, forward)
        if session.state.step == step:
            action()
        return result

    monkeypatch.setattr(loop, "train_step", stopping)


class DiedError(Exception):
    """In the place of a process that is no more."""


def killed() -> None:
    raise DiedError


def interrupted() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("step", [1, 8, 17, 29])
def test_an_interrupted_run_goes_on_to_the_bit(longer, monkeypatch, step):
    straight = train(longer(experiment_name="straight"))
    with monkeypatch.context() as patch:
        stop_after(patch, step, interrupted)
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
        with pytest.raises(DiedError):
            train(longer(experiment_name="stopped"))
    resumed = train(longer(experiment_name="stopped", resume=True))
    assert_same_run(resumed.path, straight.path)


@pytest.mark.parametrize(
    ("victim", "call"),
    [("publish_copy", 1), ("publish_copy", 2), ("publish", 2), ("seal", 2), ("remove_older", 1)],
)
def test_a_run_that_died_while_it_wrote_goes_on_to_the_bit(longer, monkeypatch, victim, call):
    straight = train(longer(experiment_name="straight"))
    plain = getattr(checkpoints, victim)
    calls = []

    def dying(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise CheckpointError("no room")
        plain(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, victim, dying)
        with pytest.raises(
            CheckpointError, match=r"no room, and (go on|begin again) with --resume"
        ):
            train(longer(experiment_name="stopped"))
    resumed = train(longer(experiment_name="stopped", resume=True))
    assert_same_run(resumed.path, straight.path)


def test_all_that_a_run_may_have_goes_on_to_the_bit(longer, monkeypatch):
    """Dropout, parts of batches, an average, two optimizers, fp16 with its scale."""
    usual = {
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
        "optimizer": "muon",
        "precision": "fp16",
        "keep_last": 1,
    }
    straight = train(longer(experiment_name="straight", **usual)).path
    for step in (3, 11, 20):
        with monkeypatch.context() as patch:
            stop_after(patch, step, killed if step == 11 else interrupted)
            with suppress(DiedError):
                train(longer(experiment_name="stopped", resume=True, **usual))
    resumed = train(longer(experiment_name="stopped", resume=True, **usual)).path
    assert_same_run(resumed, straight)
    assert (resumed / "last-30" / "trainer" / "optimizer.safetensors").stat().st_size > 10_000


@pytest.mark.parametrize("optimizer", ["sgd", "lion", "muon"])
def test_every_optimizer_goes_on_to_the_bit(longer, monkeypatch, optimizer):
    straight = train(longer(experiment_name="straight", max_steps=9, optimizer=optimizer))
    with monkeypatch.context() as patch:
        stop_after(patch, 4, interrupted)
        train(longer(experiment_name="stopped", max_steps=9, optimizer=optimizer))
    resumed = train(TrainConfig(experiment_name="stopped", resume=True, quiet=True))
    assert_same_run(resumed.path, straight.path)


def test_a_kept_checkpoint_goes_on_to_the_bit(longer):
    """Back in the run itself, and beside it."""
    straight = train(longer(experiment_name="straight", save_every=5)).path
    before = {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()}
    beside = train(TrainConfig(resume="runs/straight/straight_s10", experiment_name="b")).path
    assert {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()} == before
    assert records(beside) == records(straight)
    assert (beside / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        expected = (straight / "last-30" / name).read_bytes()
        assert (beside / "last-30" / name).read_bytes() == expected
    with pytest.raises(ConfigError, match="has gone on from straight_s10 to last-30; write --over"):
        train(TrainConfig(resume="runs/straight/straight_s10"))
    train(TrainConfig(resume="runs/straight/straight_s10", overwrite=True))
    for file, content in before.items():
        if file.suffix == ".safetensors" or file.name == "samples.txt":
            assert file.read_bytes() == content


def test_checkpoints_of_a_step_share_their_files(longer):
    path = train(longer(save_every=8, max_steps=8)).path
    assert {"last-8", "best-8", "tiny_s8"} <= {folder.name for folder in path.iterdir()}
    for name in ("best-8", "tiny_s8"):
        assert (path / name / "model.safetensors").samefile(path / "last-8" / "model.safetensors")
    assert (path / "tiny_s8" / "trainer").is_dir()
    assert not (path / "best-8" / "trainer").exists()


def test_of_one_step_the_last_is_meant(longer):
    path = train(longer(save_every=8, max_steps=8)).path
    assert find_checkpoint(path).name == "last-8"


def test_only_the_newest_of_the_kept_checkpoints_stay(longer):
    path = train(longer(save_every=4, keep_last=2)).path
    assert sorted(folder.name for folder in path.glob("tiny_s*")) == ["tiny_s24", "tiny_s28"]


def test_without_a_strategy_a_run_saves_at_its_end_alone(longer, saved, monkeypatch):
    train(longer(save_strategy="no"))
    assert saved == ["last-30"]
    stop_after(monkeypatch, 7, interrupted)
    train(longer(save_strategy="no", experiment_name="stopped"))
    assert saved == ["last-30", "last-7"]


def test_what_is_saved_is_the_step_at_which_it_was_asked_for(longer, monkeypatch):
    """Training goes on while a checkpoint is written, and leaves it alone."""
    straight = train(longer(experiment_name="straight", save_every=8)).path
    plain, may_write = checkpoints.write_checkpoints, threading.Event()

    def late(*args, **options):
        assert may_write.wait(60)
        plain(*args, **options)

    monkeypatch.setattr(checkpoints, "write_checkpoints", late)
    stop_after(monkeypatch, 15, may_write.set)
    path = train(longer(experiment_name="late", save_every=8)).path
    assert_same_run(path, straight)


def test_an_evaluation_that_was_not_saved_is_recorded_once(longer, monkeypatch):
    """Broken off, made again, and killed before it was saved."""
    straight = train(longer(experiment_name="straight"))
    plain = examine.evaluate_forward

    def interrupting(*args, **options):
        interrupted()
        return plain(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(examine, "evaluate_forward", interrupting)
        stopped = train(longer(experiment_name="stopped"))
    assert (stopped.interrupted, stopped.steps) == (True, 8)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Saver, "save", lambda *_, **__: killed())
        with pytest.raises(DiedError):
            train(longer(experiment_name="stopped", resume=True))
    assert steps(stopped.path)[-1] == 8
    resumed = train(longer(experiment_name="stopped", resume=True))
    assert_same_run(resumed.path, straight.path)


def test_a_run_that_patience_ended_has_recorded_all_that_it_saved(longer):
    usual = {"eval_steps": 5, "save_every": 5, "log_every": 4, "patience": 2}
    path = train(longer(**usual, learning_rate=1e-9)).path
    step = steps(path)[-1]
    assert step % 4
    assert [record["split"] for record in records(path) if record["step"] == step] == [
        "eval",
        "train",
    ]
    states = [
        json.loads((path / f"{name}{step}" / "trainer" / "state.json").read_text())["state"]
        for name in ("last-", "tiny_s")
    ]
    assert states[0] == states[1]
    assert (states[0]["tokens_sum"], states[0]["recorded"]) == (0, step)
    # From either it goes on alike.
    more = {"max_steps": step + 3, "patience": 9, "quiet": True}
    beside = [
        train(TrainConfig(resume=str(path / f"{name}{step}"), experiment_name=new, **more)).path
        for name, new in (("last-", "one"), ("tiny_s", "other"))
    ]
    assert records(beside[0]) == records(beside[1])


def test_the_norm_of_the_last_gradient_is_remembered(longer, monkeypatch):
    """Where no step of a record was made, as while fp16 looks for its scale."""
    usual = {"log_every": 1, "max_steps": 6, "eval_steps": 50}
    plain = loop.train_step

    def left_out(session, forward):
        report = plain(session, forward)
        return replace(report, is_finite=session.state.step < 5)

    monkeypatch.setattr(loop, "train_step", left_out)
    straight = train(longer(experiment_name="straight", **usual)).path
    with monkeypatch.context() as patch:
        stop_after(patch, 4, interrupted)
        train(longer(experiment_name="stopped", **usual))
    resumed = train(longer(experiment_name="stopped", resume=True, **usual)).path
    assert records(resumed) == records(straight)
    assert records(resumed)[4]["gradient_norm"] > 0


def test_an_old_checkpoint_that_is_damaged_is_in_nobodys_way(longer):
    path = train(longer(save_every=5)).path
    (path / "tiny_s10" / "config.json").write_text("{")
    assert gptlab.load(path)[0].config.embed_dim == 16
    assert train(longer(save_every=5, max_steps=31, resume=True)).steps == 31


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


def test_resuming_where_there_is_nothing_starts_afresh_and_says_so(longer, capsys):
    result = train(longer(resume=True, max_steps=3, quiet=False))
    assert (result.steps, result.interrupted) == (3, False)
    assert "there is no run runs/tiny to go on with: it starts afresh" in capsys.readouterr().out


def test_resuming_nothing_in_particular_takes_the_newest_run(longer, monkeypatch):
    train(longer(experiment_name="old", max_steps=3))
    with monkeypatch.context() as patch:
        stop_after(patch, 5, interrupted)
        train(longer(experiment_name="stopped"))
    result = train(TrainConfig(resume=True, quiet=True))
    assert (result.path.name, result.steps) == ("stopped", 30)
    assert train(TrainConfig(resume="old", max_steps=4, quiet=True)).path == Path("runs/old")


def test_resuming_a_run_that_died_before_its_first_checkpoint(longer, monkeypatch):
    straight = train(longer(experiment_name="straight"))
    with monkeypatch.context() as patch:
        stop_after(patch, 4, killed)
        with pytest.raises(DiedError):
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


def test_fewer_steps_than_were_taken_are_refused(longer, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 5, interrupted)
        path = train(longer()).path
    before = (path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="is at step 5 already, but would end at 4; write a lar"):
        train(longer(max_steps=4, resume=True))
    assert (path / "config.json").read_bytes() == before


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
        with pytest.raises(DiedError):
            train(longer(experiment_name="stopped"))
    bare = TrainConfig(experiment_name="stopped", resume=True, quiet=True)
    assert_same_run(train(bare).path, straight.path)


def test_the_attention_backend_may_change(longer, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, interrupted)
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
        stop_after(patch, 1, interrupted)
        stopped = train(longer(experiment_name="stopped"))
    assert capsys.readouterr().out == ""
    train(TrainConfig(experiment_name=stopped.path.name, resume=True, max_steps=2))
    assert "done after 2 steps" in capsys.readouterr().out


def test_an_interrupt_at_an_evaluation_saves_once(longer, saved, monkeypatch):
    stop_after(monkeypatch, 9, interrupted)
    train(longer(experiment_name="stopped", eval_steps=9))
    assert saved.count("last-9") == 1


def test_a_changed_evaluation_text_is_refused(longer, monkeypatch, tmp_path):
    (tmp_path / "dev.txt").write_text("the cat sat on mat 1 and saw 2 mice\n" * 9)
    given = {"experiment_name": "stopped", "eval_data": "dev.txt"}
    with monkeypatch.context() as patch:
        stop_after(patch, 2, interrupted)
        train(longer(**given))
    (tmp_path / "dev.txt").write_text("the cat sat on mat 2 and saw 3 mice\n" * 9)
    with pytest.raises(ConfigError, match=r"dev\.txt was prepared again or has changed"):
        train(longer(**given, resume=True))


def test_checkpoints_of_steps_that_were_lost_are_dropped(longer, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 12, interrupted)
        stopped = train(longer(experiment_name="stopped"))
    model, _ = gptlab.load(stopped.path)
    for name in ("best-99", "stopped_e99", "kept-99"):
        gptlab.save(stopped.path / name, model, step=99)
    # As if killed between saving the best and saving the last.
    train(longer(experiment_name="stopped", resume=True, max_steps=13))
    found = {path.name for path in stopped.path.iterdir()}
    assert "kept-99" in found
    assert not found & {"best-99", "stopped_e99"}
