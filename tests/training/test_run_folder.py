"""Which folder a run writes to, and what may be resumed or replaced."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.checkpoint import save, verify
from gptlab.config import ModelConfig, TrainConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.model import GPT
from gptlab.training import run_creation
from gptlab.training.run_checkpoints import (
    drop_later_checkpoints,
    remove_older,
    resumable_checkpoint,
)
from gptlab.training.run_creation import created_run
from gptlab.training.run_folder import Start, choose_run, continued


@pytest.fixture
def settings(tmp_path):
    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{"train_data": "some/cats.txt", "runs_dir": str(tmp_path / "runs"), **changes}
        )

    return make


def create_run(start: Start, config: TrainConfig, *, step: int) -> None:
    with created_run(start, config, step=step):
        assert (start.folder / "config.json").is_file()


def run_of(config: TrainConfig) -> Path:
    start = choose_run(config)
    create_run(start, config, step=0)
    return start.folder


def going_on(config: TrainConfig, folder: Path) -> TrainConfig:
    return continued(config, Start(folder, origin=folder))


def refused(config: TrainConfig, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as error:
        choose_run(config)
    assert "\n" not in str(error.value)


def test_choosing_creates_nothing(settings, tmp_path):
    assert choose_run(settings(experiment_name="a")) == Start(tmp_path / "runs" / "a")
    assert not (tmp_path / "runs").exists()


def test_a_run_of_the_same_name_is_refused_with_both_ways_out(settings):
    run_of(settings(experiment_name="a"))
    refused(settings(experiment_name="a"), r"'a' exists already .*--resume.*--overwrite")


def test_overwrite_empties_a_run(settings):
    folder = run_of(settings(experiment_name="a"))
    (folder / "samples.txt").write_text("old")
    assert run_of(settings(experiment_name="a", overwrite=True)) == folder
    assert [path.name for path in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["thesis.txt", "config.json"])
@pytest.mark.parametrize("way", ["overwrite", "resume"])
def test_what_is_no_run_is_left_alone(settings, tmp_path, name, way):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / name).write_text('{"format": "other"}')
    refused(settings(experiment_name="mine", **{way: True}), "is not a run of gptlab; write")
    assert (folder / name).read_text() == '{"format": "other"}'


@pytest.mark.parametrize("way", ["overwrite", "resume"])
def test_a_saved_model_is_not_taken_for_a_run(settings, tmp_path, way):
    model = GPT(ModelConfig(vocab_size=5, embed_dim=4, n_heads=1, num_layers=1), seed=0)
    save(tmp_path / "runs" / "mine", model)
    refused(settings(experiment_name="mine", **{way: True}), "is not a run of gptlab")


def test_two_runs_that_chose_the_same_folder_do_not_share_it(settings):
    config = settings()
    first, second = choose_run(config), choose_run(config)
    create_run(first, config, step=0)
    (first.folder / "metrics.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        create_run(second, config, step=0)
    assert (first.folder / "metrics.jsonl").read_text() == "mine"


def test_unnamed_runs_are_called_after_the_data_and_numbered(settings):
    names = [run_of(settings()).name for _ in range(3)]
    assert names == ["cats", "cats-2", "cats-3"]
    assert run_of(settings(train_data="some/cat.txt")).name == "cat"
    assert run_of(settings(train_data="a b/.ünï cörn*.txt")).name == "ünï_cörn_"
    assert run_of(settings(train_data="some/dogs.txt:2")).name == "dogs"
    several = ["some/dogs.txt:2", "cats.txt:1", "mice:1"]
    assert run_of(settings(train_data=several)).name == "dogs_and_2_more"


def test_resume_without_a_name_takes_the_newest(settings):
    folders = [run_of(settings()) for _ in range(3)]
    for age, folder in zip((5, 1, 9), folders, strict=True):
        os.utime(folder, (1000 - age, 1000 - age))
    assert choose_run(settings(resume=True)).folder == folders[1]
    assert choose_run(settings(train_data="dogs.txt", resume=True)).folder.name == "dogs"


def test_settings_are_saved_without_the_way_they_were_started(settings):
    folder = run_of(settings(experiment_name="a", resume=True, seed=3))
    saved = json.loads((folder / "config.json").read_text())
    assert saved["seed"] == 3
    assert not {"resume", "overwrite"} & saved.keys()


def test_what_is_not_given_again_stays(settings):
    folder = run_of(settings(experiment_name="a", seed=3, dropout=0.1))
    config = going_on(settings(experiment_name="a", resume=True), folder)
    assert (config.seed, config.dropout, config.resume) == (3, 0.1, True)


def test_other_settings_are_refused_by_name(settings):
    folder = run_of(settings(experiment_name="a", seed=3))
    with pytest.raises(ConfigError) as error:
        going_on(settings(resume=True, seed=4, batch_size=3, max_steps=7), folder)
    message = str(error.value)
    assert "batch_size (64, not 3), seed (3, not 4);" in message
    assert "max_steps" not in message
    assert "\n" not in message


def test_how_long_and_where_may_change(settings):
    folder = run_of(settings(experiment_name="a", max_steps=10, eval_steps=5))
    changes = {"max_steps": 20, "eval_steps": 7, "device": "cpu", "quiet": True, "patience": 0}
    config = going_on(settings(resume=True, **changes), folder)
    assert all(getattr(config, name) == value for name, value in changes.items())


def test_auto_precision_agrees_with_what_it_was_resolved_to(settings):
    folder = run_of(settings(experiment_name="a", precision="bf16"))
    assert going_on(settings(resume=True, precision="auto"), folder).precision == "bf16"
    with pytest.raises(ConfigError, match=r"precision \(bf16, not fp32\)"):
        going_on(settings(resume=True, precision="fp32"), folder)


def test_a_vocabulary_that_the_text_did_not_reach_agrees(settings):
    folder = run_of(settings(experiment_name="a", vocab_size=300))
    assert going_on(settings(resume=True, vocab_size=384), folder).vocab_size == 300
    with pytest.raises(ConfigError, match=r"vocab_size \(300, not 299\)"):
        going_on(settings(resume=True, vocab_size=299), folder)


def checkpoint_in(folder: Path, name: str, *, step: int = 1, trainer: bool = True) -> Path:
    model = GPT(ModelConfig(vocab_size=5, embed_dim=4, n_heads=1, num_layers=1), seed=0)

    def extra(partial: Path) -> None:
        if trainer:
            (partial / "trainer").mkdir()
            (partial / "trainer" / "state.json").write_text(name)

    return save(folder / name, model, step=step, extra=extra)


def test_only_a_checkpoint_with_a_trainer_is_resumable(settings):
    folder = run_of(settings(experiment_name="a"))
    assert resumable_checkpoint(folder) is None
    assert resumable_checkpoint(folder / "nowhere") is None
    checkpoint_in(folder, "best-9", step=9, trainer=False)
    assert resumable_checkpoint(folder) is None
    last = checkpoint_in(folder, "last-3", step=3)
    assert resumable_checkpoint(folder) == last


def test_a_damaged_checkpoint_is_no_fresh_start(settings):
    folder = run_of(settings(experiment_name="a"))
    last = checkpoint_in(folder, "last-3")
    (last / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"last-3/config.json is damaged"):
        resumable_checkpoint(folder)


def test_older_checkpoints_of_a_kind_are_removed(settings):
    folder = run_of(settings(experiment_name="best"))
    for name in ("best-1", "best-20", "best-3", "best-of-all", "last-20", "last-9", "best-4_e1"):
        checkpoint_in(folder, name, step=int("".join(filter(str.isdigit, name)) or 0))
    remove_older(folder, keep_last=None)
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"best-20", "best-of-all", "last-20", "best-4_e1", "config.json"}


def test_the_newest_numbered_checkpoints_are_kept(settings):
    folder = run_of(settings(experiment_name="a"))
    for name, step in (("a_s100", 100), ("a_e1", 70), ("a_e2", 140), ("a_s90", 90), ("mine", 1)):
        checkpoint_in(folder, name, step=step)
    checkpoint_in(folder, "last-9", step=9)
    remove_older(folder, keep_last=2)
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"a_s100", "a_e2", "mine", "last-9", "config.json"}


def test_going_back_drops_what_came_after(settings):
    folder = run_of(settings(experiment_name="a"))
    for name, step in (("a_s5", 5), ("a_s9", 9), ("best-9", 9), ("last-5", 5), ("mine", 9)):
        checkpoint_in(folder, name, step=step)
    (checkpoint_in(folder, "last-12", step=12) / "config.json").write_text("{")
    drop_later_checkpoints(folder, 5)
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"a_s5", "last-5", "mine", "config.json"}


def test_resuming_removes_what_killed_writers_left(settings):
    folder = run_of(settings(experiment_name="a"))
    (checkpoint_in(folder, "last-3")).rename(folder / ".last-3.123")
    kept = checkpoint_in(folder, "last-2")
    (folder / ".config.json.123").write_text("{")
    config = settings(experiment_name="a", resume=True)
    create_run(choose_run(config), config, step=1)
    assert {path.name for path in folder.iterdir()} == {kept.name, "config.json"}


def test_what_killed_runs_left_beside_a_run_goes_with_the_next(settings, tmp_path):
    runs = tmp_path / "runs"
    for name in (".a.12", ".ab.12", ".a.b.12", "b"):
        (runs / name).mkdir(parents=True)
    folder = run_of(settings(experiment_name="a"))
    assert {path.name for path in runs.iterdir()} == {"a", ".ab.12", ".a.b.12", "b"}
    # As if killed while another run was put in its place.
    folder.rename(runs / ".a.12.former")
    assert run_of(settings(experiment_name="a", overwrite=True)) == folder
    assert {path.name for path in runs.iterdir()} == {"a", ".ab.12", ".a.b.12", "b"}


HOLD = """
import fcntl, sys
stream = open(sys.argv[1], "w")
fcntl.lockf(stream, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["resume", "overwrite"])
def test_a_run_that_another_process_trains_is_left_alone(settings, way):
    pytest.importorskip("fcntl")
    folder = run_of(settings(experiment_name="a"))
    (folder / ".last-3.123").mkdir()
    config = settings(experiment_name="a", **{way: True})
    command = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=r"another process is training .*a; wait"):
            create_run(choose_run(config), config, step=1)
        assert (folder / ".last-3.123").is_dir()
        holder.stdin.close()
    create_run(choose_run(config), config, step=1)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_branch_replaces_a_run_only_when_it_is_whole(settings, monkeypatch):
    origin = run_of(settings(experiment_name="a"))
    kept = checkpoint_in(origin, "last-3")
    replaced = run_of(settings(experiment_name="b"))
    (replaced / "samples.txt").write_text("old")
    config = settings(resume=str(kept), experiment_name="b", overwrite=True)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_creation, "publish_copy", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            create_run(choose_run(config), config, step=3)
    assert (replaced / "samples.txt").read_text() == "old"
    create_run(choose_run(config), config, step=3)
    assert {path.name for path in replaced.iterdir()} == {"config.json", "last-3"}


def test_resuming_finds_what_a_killed_writer_had_set_aside(settings):
    folder = run_of(settings(experiment_name="a"))
    checkpoint_in(folder, "last-3").rename(folder / ".last-3.123.former")
    start = choose_run(settings(experiment_name="a", resume=True))
    assert start.checkpoint == folder / ".last-3.123.former"
    create_run(start, settings(experiment_name="a", resume=True), step=1)
    assert {path.name for path in folder.iterdir()} == {"last-3", "config.json"}


def test_a_kill_while_settings_are_saved_keeps_the_former_ones(settings, monkeypatch):
    folder = run_of(settings(experiment_name="a", seed=3))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run_of(settings(experiment_name="a", resume=True, seed=4))
    assert going_on(settings(resume=True), folder).seed == 3


def test_the_way_a_batch_is_computed_may_change(settings):
    folder = run_of(settings(experiment_name="a", micro_batch_size=8))
    assert going_on(settings(resume=True, micro_batch_size="auto"), folder).micro_batch_size == 8
    assert going_on(settings(resume=True, micro_batch_size=3), folder).micro_batch_size == 3
    config = going_on(settings(resume=True, gradient_accumulation_steps=2), folder)
    assert (config.gradient_accumulation_steps, config.micro_batch_size) == (2, None)
    folder = run_of(settings(experiment_name="b", gradient_accumulation_steps=2))
    config = going_on(settings(resume=True, micro_batch_size="auto"), folder)
    assert (config.gradient_accumulation_steps, config.micro_batch_size) == (None, "auto")


def test_what_was_given_last_says_how_long(settings):
    folder = run_of(settings(experiment_name="a", max_steps=6, save_every=10))
    config = going_on(settings(resume=True, epochs=3, save_every_epochs=2), folder)
    assert (config.max_steps, config.epochs) == (None, 3)
    assert (config.save_every, config.save_every_epochs) == (None, 2)
    assert config.save_strategy == "auto"
    assert going_on(settings(resume=True, epochs=3, max_steps=9), folder).max_steps == 9


def test_when_to_save_may_change(settings):
    folder = run_of(settings(experiment_name="a", save_every=5))
    for strategy in ("no", "epoch"):
        config = going_on(settings(resume=True, save_strategy=strategy), folder)
        assert (config.save_strategy, config.save_every) == (strategy, None)
    folder = run_of(settings(experiment_name="b", save_strategy="no"))
    config = going_on(settings(resume=True, save_every=7), folder)
    assert (config.save_strategy, config.save_every) == ("steps", 7)


@pytest.fixture
def run(settings) -> Path:
    """A run with checkpoints after steps 5, 9 and 12, and records."""
    folder = run_of(settings(experiment_name="a", seed=3))
    for name, step in (("a_s5", 5), ("a_s9", 9), ("last-12", 12)):
        checkpoint_in(folder, name, step=step)
    checkpoint_in(folder, "best-9", step=9, trainer=False)
    (folder / "metrics.jsonl").write_text("records")
    (folder / "samples.txt").write_text("samples")
    return folder


def test_resume_may_name_the_run_or_its_newest_checkpoint(run, monkeypatch):
    newest = Start(run, origin=run, checkpoint=run / "last-12")
    for path in (run, run / "last-12", run / "last"):
        start = choose_run(TrainConfig(resume=str(path)))
        assert start == newest
        config = continued(TrainConfig(resume=str(path)), start)
        assert (config.seed, config.runs_dir) == (3, str(run.parent))
    assert choose_run(TrainConfig(resume=str(run), experiment_name="a")) == newest
    monkeypatch.chdir(run)
    assert choose_run(TrainConfig(resume=".")) == newest


def test_going_back_says_both_ways_out(run):
    with pytest.raises(
        ConfigError, match=r"gone on from a_s5 to last-12; write --overwrite .* --experiment_name"
    ) as error:
        choose_run(TrainConfig(resume=str(run / "a_s5")))
    assert "\n" not in str(error.value)


def test_going_back_keeps_the_run_up_to_there(run):
    config = TrainConfig(resume=str(run / "a_s5"), overwrite=True)
    start = choose_run(config)
    assert start == Start(run, origin=run, checkpoint=run / "a_s5")
    create_run(start, continued(config, start), step=5)
    assert {path.name for path in run.iterdir()} == {
        "a_s5",
        "config.json",
        "metrics.jsonl",
        "samples.txt",
    }


def test_going_on_beside_a_run_leaves_it_alone(run, tmp_path):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    config = TrainConfig(resume=str(run / "a_s5"), experiment_name="b")
    start = choose_run(config)
    branch = run.parent / "b"
    assert start == Start(branch, origin=run, checkpoint=run / "a_s5")
    create_run(start, continued(config, start).replace(experiment_name="b"), step=5)
    assert {path.name for path in branch.iterdir()} == {
        "last-5",
        "config.json",
        "metrics.jsonl",
        "samples.txt",
    }
    verify(branch / "last-5")
    again = choose_run(TrainConfig(resume=str(branch)))
    assert again == Start(branch, origin=branch, checkpoint=branch / "last-5")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    with pytest.raises(ConfigError, match=r"'b' exists already in .*; write --resume .*b to go"):
        choose_run(config)
    replaced = TrainConfig(resume=str(run / "a_s9"), experiment_name="b", overwrite=True)
    create_run(choose_run(replaced), replaced, step=9)
    assert choose_run(TrainConfig(resume=str(branch))).checkpoint == branch / "last-9"
    other = TrainConfig(resume=str(run), runs_dir=str(tmp_path / "others"))
    assert choose_run(other).folder == tmp_path / "others" / "a"


def test_a_kill_while_a_run_branches_off_leaves_none(run, monkeypatch):
    config = TrainConfig(resume=str(run / "a_s5"), experiment_name="b")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            create_run(choose_run(config), config, step=5)
    assert not (run.parent / "b").exists()
    create_run(choose_run(config), config, step=5)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("a/best", r"best-9 is a model without the state of training.*; give "),
        ("a/best-9", "is a model without the state of training"),
        ("nowhere", "does not exist; give a run"),
        ("alone/last-1", "lies in no run: .*, whose settings it takes"),
    ],
)
def test_where_nothing_can_go_on_a_line_says_so(run, path, match):
    checkpoint_in(run.parent / "alone", "last-1")
    with pytest.raises(CheckpointError, match=match) as error:
        choose_run(TrainConfig(resume=str(run.parent / path)))
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_names_its_file_and_an_older_one_that_is_whole(run):
    for damaged, older in (("last-12", "a_s9"), ("a_s9", "a_s5")):
        (run / damaged / "model.safetensors").write_bytes(b"damaged")
        match = rf"{damaged}/model.safetensors is damaged; go back .*--resume {run}/{older} --over"
        for path in (run / damaged, run / "last-12"):
            with pytest.raises(CheckpointError, match=rf"--resume {run}/{older} --overwrite"):
                choose_run(TrainConfig(resume=str(path)))
        with pytest.raises(CheckpointError, match=match) as error:
            choose_run(TrainConfig(resume=str(run / damaged)))
        assert "\n" not in str(error.value)
    config = TrainConfig(resume=str(run / "a_s5"), overwrite=True)
    create_run(choose_run(config), config, step=5)
    (run / "a_s5" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is damaged, and there is no older"):
        choose_run(TrainConfig(resume=str(run)))


@pytest.mark.parametrize("name", [None, "a"])
def test_a_place_where_no_run_can_be_is_called_by_its_setting(tmp_path, settings, name):
    (tmp_path / "file").write_text("")
    given = {"experiment_name": name}
    refused(
        settings(runs_dir=str(tmp_path / "file"), **given),
        r"runs_dir is '.*file', but nothing can be written there: .*file is no folder; give anot",
    )
    refused(settings(runs_dir=str(tmp_path / "file" / "runs"), **given), "is no folder; give")


def test_a_folder_without_permission_is_called_by_its_setting(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)
    refused(settings(), rf"runs_dir is '{tmp_path}/runs'.*: {tmp_path} does not allow it; give")


def test_a_full_disk_at_the_start_is_one_line(settings, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ConfigError, match=r"but a can't be written there: No space left .*; give"):
        run_of(settings(experiment_name="a"))


def test_damaged_settings_are_one_line(settings):
    folder = run_of(settings(experiment_name="a"))
    (folder / "config.json").write_text('{"seed": ')
    with pytest.raises(ConfigError, match=r"config.json is damaged") as error:
        going_on(settings(resume=True), folder)
    assert "\n" not in str(error.value)
