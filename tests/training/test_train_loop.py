"""A whole run on a tiny text: what it leaves, what it learns, when it stops."""

import errno
import io
import json
import math
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.checkpoint import load_tensors, verify
from gptlab.errors import ConfigError, DataError, TrainingError
from gptlab.training import evaluate, examine, loop, train
from gptlab.training.metrics import read_metrics

FIELDS = {
    "step",
    "split",
    "loss",
    "learning_rate",
    "tokens",
    "tokens_per_second",
    "elapsed_seconds",
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def steps_of(folder: Path, split: str) -> list[int]:
    return [record["step"] for record in read_metrics(folder) if record["split"] == split]


def unigram_entropy(dataset) -> float:
    counts = Counter(dataset.read(0, len(dataset)).tolist())
    return -sum(n / len(dataset) * math.log(n / len(dataset)) for n in counts.values())


def test_a_run_leaves_what_is_documented(tiny):
    result = train(tiny(max_steps=None, epochs=4, save_every_epochs=2, batch_size=16))
    assert result.path == Path("runs/tiny")
    expected = {"config.json", "manifest.json", "metrics.jsonl", "samples.txt"}
    expected |= {"tiny_e2", "tiny_e4"}
    expected |= {"train_loss.png", "val_loss.png", "val_perplexity.png"}
    expected |= {"gradient_norm.png", "learning_rate.png", f"last-{result.steps}"}
    found = names(result.path)
    assert expected < found
    (best,) = (name for name in found - expected)
    assert best.startswith("best-")
    for name in ("tiny_e2", "tiny_e4", best, f"last-{result.steps}"):
        verify(result.path / name)
        assert (result.path / name / "trainer").is_dir() == (name != best)
        gptlab.load(result.path / name)


@pytest.mark.usefixtures("without_plots")
def test_metrics_have_the_documented_fields(tiny):
    result = train(tiny())
    records = read_metrics(result.path)
    assert all(record.keys() >= FIELDS for record in records)
    assert steps_of(result.path, "train") == [3, 6, 9, 12]
    assert steps_of(result.path, "eval") == [5, 10, 12]
    assert [r["tokens"] for r in records] == [r["step"] * 4 * 16 for r in records]
    last = records[-1]
    assert last["loss"] == result.eval_loss
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]))
    assert {"bits_per_byte", "nats_per_character"} <= last.keys()
    assert "nats_per_character_above_floor" not in last


@pytest.mark.usefixtures("without_plots")
def test_settings_are_saved_as_resolved(tiny):
    result = train(tiny(experiment_name=None))
    saved = json.loads((result.path / "config.json").read_text())
    assert saved["experiment_name"] == result.path.name == "cats"
    assert (saved["vocab_size"], saved["precision"]) == (270, "fp32")
    with pytest.raises(ConfigError, match="exists already"):
        train(gptlab.TrainConfig(**saved))


@pytest.mark.usefixtures("without_plots")
def test_samples_are_kept(tiny):
    text = (train(tiny()).path / "samples.txt").read_text()
    headers = [line for line in text.splitlines() if line.startswith("--- step")]
    assert headers == ["--- step 5", "--- step 10", "--- step 12"]
    assert "samples.txt" not in names(train(tiny(experiment_name="none", sample_length=0)).path)


@pytest.mark.usefixtures("without_plots")
def test_it_learns_more_than_frequencies(tiny):
    config = tiny(max_steps=150, eval_steps=50, learning_rate=1e-2, embed_dim=32, patience=0)
    result = train(config)
    session = loop.open_session(config.replace(experiment_name="other"))
    assert result.eval_loss < unigram_entropy(session.inputs.train[0].dataset) - 1.0
    assert result.best_eval_loss == min(
        record["loss"] for record in read_metrics(result.path) if record["split"] == "eval"
    )
    model, tokenizer = gptlab.load(result.path / "best")
    assert not model.training
    ids = torch.tensor([tokenizer.encode("the cat sat")])
    assert tokenizer.decode([int(model(ids)[0, -1].argmax())]).startswith(" ")


@pytest.mark.usefixtures("without_plots")
def test_patience_ends_a_run_that_gets_no_better(tiny):
    result = train(tiny(learning_rate=1e-12, eval_steps=1, patience=2, max_steps=40))
    evaluations = steps_of(result.path, "eval")
    assert result.steps == evaluations[-1] < 40
    assert not result.interrupted
    best = min(read_metrics(result.path), key=lambda r: (r["split"] != "eval", r["loss"]))
    assert result.steps == best["step"] + 2


@pytest.mark.usefixtures("without_plots")
def test_minutes_end_a_run_with_an_evaluation(tiny, capsys):
    result = train(tiny(max_minutes=1e-9, eval_strategy="no", quiet=False))
    assert (result.steps, result.interrupted) == (1, False)
    assert steps_of(result.path, "eval") == [1]
    assert "in the 1e-09 minutes it was given" in capsys.readouterr().out


@pytest.mark.usefixtures("without_plots")
def test_the_end_points_to_the_best_model(tiny, capsys):
    train(tiny(quiet=False, eval_steps=1, max_steps=3, learning_rate=1e-12, runs_dir="other"))
    out = capsys.readouterr().out
    best = next(Path("other/tiny").glob("best-*"))
    assert str(best) in out


@pytest.mark.usefixtures("without_plots")
def test_metrics_have_the_learning_rate_of_their_step(tiny):
    config = tiny(log_every=1, max_steps=5, warmup_steps=0)
    rates = [r["learning_rate"] for r in read_metrics(train(config).path) if r["split"] == "train"]
    assert rates[0] == config.learning_rate
    assert rates == sorted(rates, reverse=True)


@pytest.mark.usefixtures("without_plots")
def test_evaluation_strategies(tiny):
    by_epoch = train(tiny(eval_strategy="epoch", max_steps=None, epochs=2, patience=0))
    epochs = [r["epoch"] for r in read_metrics(by_epoch.path) if r["split"] == "eval"]
    assert [int(epoch) for epoch in epochs] == [1, 2]
    never = train(tiny(eval_strategy="no", experiment_name="never", eval_steps=1))
    assert steps_of(never.path, "eval") == [12]


@pytest.mark.usefixtures("without_plots")
def test_save_every_counts_steps(tiny):
    found = names(train(tiny(save_every=5)).path)
    assert {"tiny_s5", "tiny_s10", "last-12"} <= found
    assert not any("_e" in name for name in found)


@pytest.mark.usefixtures("without_plots")
def test_last_and_best_replace_the_former_ones(tiny):
    found = names(train(tiny(learning_rate=1e-2)).path)
    assert sum(name.startswith("last-") for name in found) == 1
    assert sum(name.startswith("best-") for name in found) == 1


def test_quiet_prints_nothing(tiny, capfd):
    train(tiny(save_every=5))
    assert capfd.readouterr() == ("", "")


def test_a_run_says_its_plan_and_its_end(tiny, capsys):
    train(tiny(quiet=False))
    out = capsys.readouterr().out
    for part in (
        "evaluation text: the last 10%",
        "trained a tokenizer of 270 tokens",
        "parameters",
        "step 12: evaluation loss",
        "bits per byte",
        "done after 12 steps",
        "gptlab-generate --model_path",
    ):
        assert part in out


@pytest.mark.usefixtures("without_plots")
def test_an_epoch_may_be_smaller_than_a_batch(tiny):
    result = train(tiny(batch_size=200, max_steps=4, save_every_epochs=1))
    assert result.steps == 4
    assert "last-4" in names(result.path)
    assert sum(name.startswith("tiny_e") for name in names(result.path)) == 4


def test_a_text_shorter_than_a_window_leaves_no_run(tiny):
    with pytest.raises(DataError, match="but one window takes 2,001; write a smaller --seq_len"):
        train(tiny(seq_len=2000))
    assert not Path("runs/tiny").exists()


def test_the_shipped_stories_report_their_floor(tiny, capsys):
    config = gptlab.TrainConfig(
        **tiny(max_steps=2, quiet=False).model_dump(
            include={"seq_len", "embed_dim", "num_layers", "n_heads", "max_steps", "device"}
        ),
        precision="fp32",
    )
    result = train(config)
    record = read_metrics(result.path)[-1]
    above = record["nats_per_character_above_floor"]
    assert 0 < above < record["nats_per_character"]
    assert "nats per character above the floor of" in capsys.readouterr().out


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.usefixtures("without_plots")
def test_two_runs_with_a_seed_are_the_same(tiny, dropout):
    first, second, other = (
        train(tiny(experiment_name=name, seed=seed, dropout=dropout)).path
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for file in ("last-12/model.safetensors", "last-12/trainer/optimizer.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
        assert (first / file).read_bytes() != (other / file).read_bytes()
    assert (first / "samples.txt").read_bytes() == (second / "samples.txt").read_bytes()


@pytest.mark.usefixtures("without_plots")
def test_looking_does_not_change_the_run(tiny):
    changes = {"dropout": 0.3, "patience": 0}
    often = train(tiny(experiment_name="a", eval_steps=1, save_every=2, **changes)).path
    rarely = train(tiny(experiment_name="b", eval_strategy="no", sample_length=0, **changes)).path
    file = "last-12/model.safetensors"
    assert (often / file).read_bytes() == (rarely / file).read_bytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.usefixtures("without_plots")
def test_half_precision_trains(tiny, precision):
    assert math.isfinite(train(tiny(precision=precision)).eval_loss)


def test_steps_that_are_not_finite_end_the_run_in_one_line(tiny):
    with pytest.raises(TrainingError, match=r"3 step\(s\) in a row were left out") as error:
        train(
            tiny(learning_rate=1e30, warmup_steps=0, grad_clip=0.0, max_steps=30, max_bad_steps=3)
        )
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("without_plots")
def test_weights_that_are_not_finite_are_not_kept(tiny, monkeypatch):
    step = loop.train_step

    def exploding(session, forward):
        result = step(session, forward)
        if session.state.step == 10:
            with torch.no_grad():
                session.model.embedding.weight.fill_(math.nan)
        return result

    monkeypatch.setattr(loop, "train_step", exploding)
    with pytest.raises(TrainingError, match="the evaluation loss is nan at step 10"):
        train(tiny())
    assert {"best-5", "last-5"} <= names(Path("runs/tiny"))


def test_a_missing_tensorboard_leaves_no_run(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install"):
        train(tiny(tensorboard=True))
    assert not Path("runs/tiny").exists()


def test_tensorboard_is_written_when_asked_for(tiny):
    pytest.importorskip("tensorboard")
    found = names(train(tiny(tensorboard=True)).path)
    assert any(name.startswith("events.out") for name in found)


@pytest.mark.usefixtures("without_plots")
def test_a_run_that_ends_early_records_its_last_steps(tiny):
    early = train(tiny(learning_rate=1e-12, eval_steps=1, patience=2, log_every=100))
    assert steps_of(early.path, "train") == [early.steps]
    by_clock = train(tiny(max_minutes=1e-9, log_every=100, experiment_name="clock"))
    assert steps_of(by_clock.path, "train") == [1]


@pytest.mark.usefixtures("without_plots")
def test_a_log_that_can_not_be_written_does_not_stop_the_run(tiny, monkeypatch):
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    assert train(tiny(quiet=False)).steps == 12


@pytest.mark.usefixtures("without_plots")
def test_when_to_save_and_to_log(tiny):
    by_epoch = {"max_steps": None, "epochs": 2, "batch_size": 16, "patience": 0}
    run = train(tiny(**by_epoch, log_strategy="epoch", save_strategy="epoch", save_every_epochs=1))
    assert {"tiny_e1", "tiny_e2"} <= names(run.path)
    logged = [record for record in read_metrics(run.path) if record["split"] == "train"]
    assert [int(record["epoch"]) for record in logged] == [1, 2]
    never = train(tiny(experiment_name="never", log_strategy="no", save_strategy="no"))
    assert steps_of(never.path, "train") == []
    assert {name for name in names(never.path) if (never.path / name).is_dir()} == {"last-12"} | {
        name for name in names(never.path) if name == "best-12"
    }


@pytest.mark.usefixtures("without_plots")
def test_a_run_that_saves_nothing_says_no_folder_that_is_not_there(tiny, capsys):
    config = tiny(eval_steps=1, max_steps=3, learning_rate=1e-12, save_strategy="no", quiet=False)
    result = train(config)
    assert result.best_eval_loss is not None
    out = capsys.readouterr().out
    assert "best-" not in out
    assert f"--model_path {result.path} " in out


@pytest.mark.usefixtures("without_plots")
def test_an_average_is_what_is_evaluated_and_saved(tiny):
    config = tiny(ema_decay=0.9, learning_rate=3e-2, patience=0)
    plain = train(config.replace(experiment_name="plain", ema_decay=None))
    averaged = train(config)
    assert averaged.eval_loss != plain.eval_loss
    session = loop.open_session(config.replace(experiment_name="other"))
    model, _ = gptlab.load(averaged.path / "last")
    evaluation = evaluate(
        model,
        *session.inputs.evaluation,
        batch_size=4,
        arithmetic=session.arithmetic,
    )
    assert evaluation.loss == averaged.eval_loss
    trainer = averaged.path / "last-12" / "trainer" / "optimizer.safetensors"
    weights = {
        name.removeprefix("weights/"): tensor
        for name, tensor in load_tensors(trainer).items()
        if name.startswith("weights/")
    }
    former, _ = gptlab.load(plain.path / "last")
    # The average only looks: the weights themselves go where they go without it.
    assert all(torch.equal(weights[name], value) for name, value in former.state_dict().items())


@pytest.mark.usefixtures("without_plots")
def test_key_tokens_are_split_off_in_the_metrics(tiny):
    config = tiny(key_tokens=["cat", "mat"], vocab_size=300, log_every=1)
    records = read_metrics(train(config).path)
    for record in records:
        assert {"key_loss", "other_loss"} <= record.keys()
        low, high = sorted([record["key_loss"], record["other_loss"]])
        assert low <= record["loss"] <= high
    train_records = [record for record in records if record["split"] == "train"]
    assert all(record["objective"] != record["loss"] for record in train_records)


@pytest.mark.parametrize("name", ["muon", "sgd", "lion"])
@pytest.mark.usefixtures("without_plots")
def test_every_optimizer_learns(tiny, name):
    result = train(tiny(optimizer=name, max_steps=40, eval_steps=20, patience=0))
    first, last = (r["loss"] for r in read_metrics(result.path) if r["split"] == "eval")
    assert last < first


@pytest.mark.usefixtures("without_plots")
def test_micro_batches_change_nothing_but_rounding(tiny):
    whole = train(tiny(experiment_name="whole", batch_size=8))
    for name, changes in (
        ("steps", {"gradient_accumulation_steps": 3}),
        ("size", {"micro_batch_size": 2}),
        ("auto", {"micro_batch_size": "auto"}),
    ):
        parts = train(tiny(experiment_name=name, batch_size=8, **changes))
        for ours, theirs in zip(read_metrics(parts.path), read_metrics(whole.path), strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert json.loads((parts.path / "config.json").read_text())["micro_batch_size"] == 8


@pytest.mark.usefixtures("without_plots")
def test_a_signal_breaks_an_evaluation_off_which_then_comes_first(tiny, monkeypatch):
    straight = train(tiny(experiment_name="straight"))
    plain = examine.evaluate_forward
    for step, evaluations in ((5, 0), (10, 1), (12, 1)):
        allowed = [None] * evaluations

        def interrupted(*args, allowed=allowed, **kwargs):
            if not allowed:
                signal.raise_signal(signal.SIGTERM)
            else:
                allowed.pop()
            return plain(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(examine, "evaluate_forward", interrupted)
            stopped = train(tiny(resume=step != 5))
        assert (stopped.interrupted, stopped.steps) == (True, step)
        assert steps_of(stopped.path, "eval") == [5, 10, 12][: [5, 10, 12].index(step)]
    resumed = train(tiny(resume=True))
    assert (resumed.interrupted, resumed.steps) == (False, 12)
    assert steps_of(resumed.path, "eval") == [5, 10, 12]
    assert resumed.eval_loss == straight.eval_loss


@pytest.mark.usefixtures("without_plots")
def test_much_evaluation_is_worth_a_note(tiny, capsys):
    train(tiny(quiet=False, eval_steps=1, max_steps=3))
    assert "of the time; a larger --eval_steps" in capsys.readouterr().out
