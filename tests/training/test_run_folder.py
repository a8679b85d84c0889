"""Which folder a run writes to, and what may be resumed or replaced."""

import json
import os
from pathlib import Path

import pytest

from gptlab.checkpoint import save
from gptlab.config import ModelConfig, TrainConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.model import GPT
from gptlab.training.run_folder import (
    choose_run,
    continued,
    create_run,
    remove_older,
    resumable_checkpoint,
)


@pytest.fixture
def settings(tmp_path):
    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{"train_data": "some/cats.txt", "runs_dir": str(tmp_path / "runs"), **changes}
        )

    return make


def run_of(config: TrainConfig) -> Path:
    folder = choose_run(config)
    create_run(folder, config)
    return folder


def refused(config: TrainConfig, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as error:
        choose_run(config)
    assert "\n" not in str(error.value)


def test_choosing_creates_nothing(settings, tmp_path):
    assert choose_run(settings(experiment_name="a")) == tmp_path / "runs" / "a"
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
    create_run(first, config)
    (first / "metrics.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        create_run(second, config)
    assert (first / "metrics.jsonl").read_text() == "mine"


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
    assert choose_run(settings(resume=True)) == folders[1]
    assert choose_run(settings(train_data="dogs.txt", resume=True)).name == "dogs"


def test_settings_are_saved_without_the_way_they_were_started(settings):
    folder = run_of(settings(experiment_name="a", resume=True, seed=3))
    saved = json.loads((folder / "config.json").read_text())
    assert saved["seed"] == 3
    assert not {"resume", "overwrite"} & saved.keys()


def test_what_is_not_given_again_stays(settings):
    folder = run_of(settings(experiment_name="a", seed=3, dropout=0.1))
    config = continued(settings(experiment_name="a", resume=True), folder)
    assert (config.seed, config.dropout, config.resume) == (3, 0.1, True)


def test_other_settings_are_refused_by_name(settings):
    folder = run_of(settings(experiment_name="a", seed=3))
    with pytest.raises(ConfigError) as error:
        continued(settings(resume=True, seed=4, batch_size=3, max_steps=7), folder)
    message = str(error.value)
    assert "batch_size (64, not 3), seed (3, not 4);" in message
    assert "max_steps" not in message
    assert "\n" not in message


def test_how_long_and_where_may_change(settings):
    folder = run_of(settings(experiment_name="a", max_steps=10, eval_steps=5))
    changes = {"max_steps": 20, "eval_steps": 7, "device": "cpu", "quiet": True, "patience": 0}
    config = continued(settings(resume=True, **changes), folder)
    assert all(getattr(config, name) == value for name, value in changes.items())


def test_auto_precision_agrees_with_what_it_was_resolved_to(settings):
    folder = run_of(settings(experiment_name="a", precision="bf16"))
    assert continued(settings(resume=True, precision="auto"), folder).precision == "bf16"
    with pytest.raises(ConfigError, match=r"precision \(bf16, not fp32\)"):
        continued(settings(resume=True, precision="fp32"), folder)


def test_a_vocabulary_that_the_text_did_not_reach_agrees(settings):
    folder = run_of(settings(experiment_name="a", vocab_size=300))
    assert continued(settings(resume=True, vocab_size=384), folder).vocab_size == 300
    with pytest.raises(ConfigError, match=r"vocab_size \(300, not 299\)"):
        continued(settings(resume=True, vocab_size=299), folder)


def checkpoint_in(folder: Path, name: str, *, step: int = 1, trainer: bool = True) -> Path:
    model = GPT(ModelConfig(vocab_size=5, embed_dim=4, n_heads=1, num_layers=1), seed=0)

    def extra(partial: Path) -> None:
        if trainer:
            (partial / "trainer").mkdir()

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
    for name in ("best-1", "best-20", "best-3", "best_e5", "best-of-all", "last-20"):
        checkpoint_in(folder, name)
    remove_older(folder, "best", kept=folder / "best-20")
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"best-20", "best_e5", "best-of-all", "last-20", "config.json"}


def test_resuming_removes_what_killed_writers_left(settings):
    folder = run_of(settings(experiment_name="a"))
    (checkpoint_in(folder, "last-3")).rename(folder / ".last-3.123")
    kept = checkpoint_in(folder, "last-2")
    (folder / ".config.json.123").write_text("{")
    create_run(folder, settings(experiment_name="a", resume=True))
    assert {path.name for path in folder.iterdir()} == {kept.name, "config.json"}


def test_a_kill_while_settings_are_saved_keeps_the_former_ones(settings, monkeypatch):
    folder = run_of(settings(experiment_name="a", seed=3))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        create_run(folder, settings(experiment_name="a", resume=True, seed=4))
    assert continued(settings(resume=True), folder).seed == 3


def test_damaged_settings_are_one_line(settings):
    folder = run_of(settings(experiment_name="a"))
    (folder / "config.json").write_text('{"seed": ')
    with pytest.raises(ConfigError, match=r"config.json is damaged") as error:
        continued(settings(resume=True), folder)
    assert "\n" not in str(error.value)
