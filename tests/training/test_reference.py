"""The reference curve: what is shipped, what it lets pass, and what it catches."""

import math
import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from gptlab.config import TrainConfig
from gptlab.data.sampler import WindowSampler
from gptlab.errors import ConfigError
from gptlab.model import multi_head
from gptlab.training import reference
from gptlab.training.loop import TrainResult
from gptlab.training.reference import (
    CHOOSABLE,
    LIMIT,
    REFERENCE_FILE,
    ROUNDING,
    Point,
    ReferenceCheck,
    check_reference,
    compare_curve,
    read_curve,
    read_reference,
    train_reference,
    verdict,
)

# So many steps show most faults, and the learning rate does not depend on those that follow.
WARMUP = 30
POINTS = (
    Point("train", 10, mean=5.0, deviation=0.1, seed_0=5.05),
    Point("train", 20, mean=4.0, deviation=0.2, seed_0=3.9),
    Point("eval", 20, mean=4.2, deviation=0.05, seed_0=4.2),
)
CURVE = {("train", 10): 5.05, ("train", 20): 4.3, ("eval", 20): 4.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Keeps the stories and their tokens, so that they are made once."""
    return tmp_path_factory.mktemp("reference")


@pytest.fixture
def beginning(folder, without_plots):
    """Trains the first steps of the reference run, with changes, and compares them."""
    known = read_reference()
    here = {"device": "cpu", "precision": "fp32", "quiet": True}

    def run(*, steps: int = WARMUP, **changes: object) -> ReferenceCheck:
        settings = {**known.settings, **here, "max_steps": steps, **changes}
        points = [point for point in known.points if point.step <= steps]
        return compare_curve(read_curve(train_reference(settings, folder).path), points)

    return run


def test_the_curves_are_in_the_package_and_whole():
    assert resources.files("gptlab.training").joinpath(REFERENCE_FILE).is_file()
    known = read_reference()
    assert known.seeds == 10
    steps = {
        split: [point.step for point in known.points if point.split == split]
        for split in ("train", "eval")
    }
    last, settings = known.settings["max_steps"], known.settings
    assert steps["train"] == list(range(settings["log_every"], last + 1, settings["log_every"]))
    assert steps["eval"] == list(range(settings["eval_steps"], last + 1, settings["eval_steps"]))
    assert all(0 < point.deviation < 0.1 for point in known.points)
    assert known.points[0].mean > 4 > 1 > known.points[-1].mean


def test_one_of_the_seeds_lies_in_the_band_of_all():
    known = read_reference()
    curve = {(point.split, point.step): point.seed_0 for point in known.points}
    check = compare_curve(curve, known.points)
    # No member of a sample of n is further from its mean than (n - 1) / sqrt(n) deviations.
    assert check.deviations <= 9 / math.sqrt(10) < LIMIT
    assert check.from_seed_0 == 0


def test_the_run_and_how_it_is_computed_are_apart():
    settings = read_reference().settings
    assert not settings.keys() & (CHOOSABLE | {"seed"})
    assert settings["warmup_steps"] == WARMUP
    TrainConfig(**settings, train_data="stories.txt")
    assert TrainConfig.model_fields.keys() > CHOOSABLE


def test_this_machine_lies_in_the_band(beginning):
    check = beginning()
    assert check.in_band
    assert check.from_seed_0 < ROUNDING


def test_it_is_the_same_run_in_other_arithmetic(beginning):
    check = beginning(precision="bf16", attention="reference")
    assert check.in_band
    assert check.from_seed_0 < ROUNDING


def test_a_wrong_learning_rate_leaves_the_band(beginning):
    rate = 1.25 * read_reference().settings["learning_rate"]
    assert beginning(learning_rate=rate).deviations > 2 * LIMIT


def test_a_broken_causal_mask_leaves_the_band(beginning, monkeypatch):
    whole = multi_head.attend
    monkeypatch.setattr(
        multi_head, "attend", lambda *states, **how: whole(*states, **{**how, "causal": False})
    )
    # Looking ahead has to be learned first; the cosine has hardly fallen meanwhile.
    rate = read_reference().settings["learning_rate"]
    assert beginning(steps=50, min_learning_rate=rate).deviations > 2 * LIMIT


@pytest.mark.parametrize("places", [1, -1])
def test_targets_off_by_one_leave_the_band(beginning, monkeypatch, places):
    read = WindowSampler.read

    def shifted(self, *spans, **width):
        batch = read(self, *spans, **width)
        return batch._replace(targets=np.roll(batch.targets, places, axis=1))

    monkeypatch.setattr(WindowSampler, "read", shifted)
    assert beginning().deviations > 2 * LIMIT


def test_the_worst_point_decides():
    check = compare_curve(CURVE, POINTS)
    assert check.worst == POINTS[1]
    assert check.loss == 4.3
    assert check.deviations == pytest.approx(1.5)
    assert check.from_seed_0 == pytest.approx(0.4)
    assert check.mean_from_seed_0 == pytest.approx(0.4 / 3)
    assert check.in_band
    assert not compare_curve({**CURVE, ("eval", 20): 4.2 - 4.1 * 0.05}, POINTS).in_band


@pytest.mark.parametrize("fault", ["missing", math.nan, math.inf])
def test_a_loss_that_is_no_number_leaves_the_band(fault):
    curve = {**CURVE, ("eval", 20): fault}
    if fault == "missing":
        del curve["eval", 20]
    check = compare_curve(curve, POINTS)
    assert (check.deviations, check.from_seed_0) == (math.inf, math.inf)
    assert check.worst == POINTS[2]
    assert "left: inf deviations" in verdict(check, seeds=10)


def test_a_verdict_tells_the_band_the_worst_point_and_the_seed():
    good = compare_curve({("train", 10): 5.055, ("train", 20): 3.9, ("eval", 20): 4.2}, POINTS)
    assert verdict(good, seeds=10).splitlines() == [
        "band     within: at most 0.5 deviations from the mean of 10 seeds, where 4 are allowed",
        "worst    step 10: training loss 5.0550, mean 5.0000",
        "seed 0   at most 0.0050 nats per token from its curve as recorded in fp32 on a CPU, "
        "0.0017 on average: no more than rounding explains",
        "the loss falls here as it should",
    ]
    bad = compare_curve({**CURVE, ("eval", 20): 4.7}, POINTS)
    band, worst, seed, conclusion = verdict(bad, seeds=10).splitlines()
    assert band.startswith("band     left: 10.0 deviations from the mean")
    assert worst == "worst    step 20: evaluation loss 4.7000, mean 4.2000"
    assert seed.endswith(": more than rounding explains")
    assert "does not fall here as it should" in conclusion


def test_what_is_learned_can_not_be_chosen(monkeypatch):
    monkeypatch.setattr(reference, "train", None)
    config = TrainConfig(embed_dim=96, batch_size=3, device="cpu", quiet=True)
    with pytest.raises(ConfigError, match="takes no batch_size, embed_dim; leave them out"):
        check_reference(config)


class Training:
    """Stands for `train`: leaves the given curve, and remembers with what it was called."""

    def __init__(self, curve, *, interrupted=False):
        self.curve, self.interrupted = curve, interrupted

    def __call__(self, config):
        self.config, self.folder = config, Path(config.runs_dir, config.experiment_name)
        self.folder.mkdir(parents=True)
        lines = [
            f'{{"split": "{split}", "step": {step}, "loss": {loss}}}\n'
            for (split, step), loss in self.curve.items()
        ]
        (self.folder / "metrics.jsonl").write_text("".join(lines))
        return TrainResult(self.folder, 300, None, None, self.interrupted)


@pytest.fixture
def training(monkeypatch):
    def make(**changes):
        points = read_reference().points
        stand_in = Training({(point.split, point.step): point.mean for point in points}, **changes)
        monkeypatch.setattr(reference, "train", stand_in)
        return stand_in

    return make


def test_a_check_is_of_seed_0_and_leaves_nothing(training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stand_in = training()
    check = check_reference(TrainConfig(device="cpu", precision="bf16", micro_batch_size=5))
    assert check.deviations == 0
    assert (stand_in.config.seed, stand_in.config.micro_batch_size) == (0, 5)
    assert (stand_in.config.device, stand_in.config.precision) == ("cpu", "bf16")
    assert not stand_in.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_is_stopped_says_nothing(training):
    stand_in = training(interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        check_reference(TrainConfig())
    assert not stand_in.folder.exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_processes_of_a_job_share_a_folder(training, monkeypatch, rank):
    monkeypatch.setitem(os.environ, "MASTER_PORT", "54321")
    monkeypatch.setitem(os.environ, "RANK", rank)
    stand_in = training()
    check = check_reference(TrainConfig())
    assert "54321" in str(stand_in.folder)
    assert stand_in.folder.exists() == (rank == "1")
    assert (check is None) == (rank == "1")
    monkeypatch.setitem(os.environ, "RANK", "0")
    with reference._folder() as shared:
        assert shared == stand_in.folder.parents[1]
    assert not shared.exists()
