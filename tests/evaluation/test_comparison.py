import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import gptlab
from gptlab import TrainConfig
from gptlab.data import TokenDataset
from gptlab.errors import CheckpointError, ConfigError
from gptlab.evaluation import Comparison, compare, compare_models, seeds
from gptlab.evaluation.comparison import paired_difference
from gptlab.evaluation.models import window_losses
from gptlab.training import evaluate, loop
from gptlab.training.inputs import load_inputs
from gptlab.training.metrics import read_metrics
from gptlab.training.precision import Arithmetic

CPU = Arithmetic(torch.device("cpu"), "fp32")
NUMBERS = st.floats(-100, 100).map(lambda value: round(value, 3))


@pytest.fixture(autouse=True)
def without_plots(monkeypatch) -> None:
    """Runs draw nothing, which is most of a tiny run's time."""
    monkeypatch.setattr(loop, "plot_run", lambda _folder: None)


def config(**changes: object) -> TrainConfig:
    return TrainConfig(
        **{
            "train_data": "text.txt",
            "tokenizer": "tok",
            "embed_dim": 16,
            "num_layers": 1,
            "n_heads": 2,
            "seq_len": 16,
            "batch_size": 2,
            "max_steps": 3,
            "sample_length": 0,
            "device": "cpu",
            "precision": "fp32",
            "quiet": True,
            **changes,
        }
    )


# The interval.


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=12))
def test_without_weights_it_is_the_paired_t_test(pairs):
    a, b = np.array(pairs).T
    result = paired_difference(a, b)
    assert result.difference == pytest.approx((b - a).mean(), abs=1e-9)
    assert result.pairs == len(pairs)
    if np.ptp(b - a) > 1e-6:
        expected = stats.ttest_rel(b, a)
        assert result.p_value == pytest.approx(expected.pvalue, abs=1e-9)
        interval = expected.confidence_interval(0.95)
        assert (result.low, result.high) == pytest.approx((interval.low, interval.high), abs=1e-7)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=12), st.floats(0.5, 9))
def test_equal_weights_change_the_scale_alone(pairs, weight):
    a, b = np.array(pairs).T
    plain = paired_difference(a / weight, b / weight)
    weighted = paired_difference(a, b, [weight] * len(pairs))
    for name in ("a", "b", "difference", "low", "high"):
        assert getattr(weighted, name) == pytest.approx(getattr(plain, name), abs=1e-6)


def test_means_are_over_all_things_not_over_pairs():
    result = paired_difference([3.0, 10.0, 2.0], [2.0, 8.0, 2.0], [3.0, 10.0, 2.0])
    assert result.a == pytest.approx(1.0)
    assert result.b == pytest.approx(12 / 15)
    assert result.difference == pytest.approx(-3 / 15)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        sizes = rng.integers(1, 20, size=30).astype(float)
        a = rng.normal(size=30) * np.sqrt(sizes)
        b = a + 0.3 * sizes + rng.normal(size=30) * np.sqrt(sizes)
        result = paired_difference(a, b, sizes)
        hits += result.low <= 0.3 <= result.high
    assert 925 <= hits <= 970


def test_the_same_numbers_twice():
    result = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
    constant = paired_difference([1.0, 2.0], [0.5, 1.5])
    assert (constant.low, constant.high, constant.p_value) == (-0.5, -0.5, 0)


def test_one_pair_has_no_interval():
    with pytest.raises(ConfigError, match="there is 1 pair to compare, but an interval needs"):
        paired_difference([1.0], [2.0])


# What is said of it.


def comparison(b: list[float]) -> Comparison:
    a = [2.0, 2.1, 1.9, 2.05]
    return Comparison(
        a="base",
        b="wide",
        paired_by="seed",
        unit="nats per token",
        measures={"at the end": paired_difference(a, b)},
        values={"at the end": {"base": a, "wide": b}},
    )


@pytest.mark.parametrize(
    ("b", "verdict"),
    [
        (
            [1.5, 1.58, 1.41, 1.56],
            "wide is better than base by 0.5000 nats per token (95% sure that it is 0.4775 to "
            "0.5225, on 4 seeds)",
        ),
        (
            [2.5, 2.58, 2.41, 2.56],
            "base is better than wide by 0.5000 nats per token (95% sure that it is 0.4775 to "
            "0.5225, on 4 seeds)",
        ),
        (
            [2.2, 1.9, 2.1, 2.0],
            "no difference is shown between base and wide: +0.0375 nats per token, but chance "
            "alone gives up to 0.3141 on 4 seeds; more seeds may tell",
        ),
        ([2.0, 2.1, 1.9, 2.05], "base and wide are the same on all 4 seeds"),
    ],
)
def test_the_verdict_follows_the_interval(b, verdict):
    assert comparison(b).verdict == verdict


def test_the_table_has_every_number():
    assert comparison([1.5, 1.58, 1.41, 1.56]).table().splitlines() == [
        "                 base       wide  difference        95% interval        p",
        "at the end     2.0125     1.5125     -0.5000  -0.5225 to -0.4775  6.2e-06",
    ]


def test_saved_as_json(tmp_path):
    comparison([1.5, 1.58, 1.41, 1.56]).save(tmp_path / "compare.json")
    saved = json.loads((tmp_path / "compare.json").read_text())
    assert saved["measures"]["at the end"]["difference"] == pytest.approx(-0.5)
    assert saved["values"]["at the end"]["wide"] == [1.5, 1.58, 1.41, 1.56]
    assert saved["verdict"].startswith("wide is better")
    assert saved["confidence"] == 0.95


def test_scipy_that_is_not_installed_is_one_line_before_any_training(workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ConfigError, match=r"^comparing needs the scipy package; pip install scipy"):
        compare(config(experiment_name="x"), config(experiment_name="y"))
    assert not Path("runs").exists()


# Recipes over seeds.


def final(run: str) -> float:
    return [r["loss"] for r in read_metrics(Path("runs", run)) if r["split"] == "eval"][-1]


def test_both_are_trained_with_each_seed_and_compared_in_pairs(workplace):
    lines: list[str] = []
    settings = {"max_steps": 4, "eval_steps": 2, "patience": 0}
    a = config(experiment_name="slow", learning_rate=1e-9, **settings)
    b = config(experiment_name="fast", learning_rate=1e-2, **settings)
    result = compare(a, b, seeds=3, say=lines.append)
    assert sorted(path.name for path in Path("runs").glob("[!.]*")) == [
        f"{name}-seed{seed}" for name in ("fast", "slow") for seed in range(3)
    ]
    values = result.values["at the end"]
    assert values["slow"] == [final(f"slow-seed{seed}") for seed in range(3)]
    assert values["fast"] == [final(f"fast-seed{seed}") for seed in range(3)]
    assert len(set(values["fast"])) == 3
    end, best = result.measures["at the end"], result.measures["at its best"]
    assert end.difference == pytest.approx(np.mean(values["fast"]) - np.mean(values["slow"]))
    assert end.is_clear
    assert best.a <= end.a
    assert result.unit == "nats per token"
    assert result.verdict.startswith("fast is better than slow by")
    assert len(lines) == 6
    first = f"runs/slow-seed0: {values['slow'][0]:.4f} nats per token after 4 steps"
    assert lines[0].startswith(first)


def test_finished_runs_are_used_and_one_that_was_cut_off_goes_on(workplace, monkeypatch):
    def both(**changes: object) -> Comparison:
        settings = {"max_steps": 4, "eval_steps": 2, **changes}
        a = config(experiment_name="one", **settings)
        b = config(experiment_name="two", learning_rate=1e-2, **settings)
        return compare(a, b, seeds=2)

    expected = both(runs_dir="straight")
    step, made = loop.train_step, []

    def cut_off(*args: object):
        made.append(args)
        if len(made) == 7:
            raise OSError("the power went off")
        return step(*args)

    monkeypatch.setattr(loop, "train_step", cut_off)
    with pytest.raises(OSError, match="the power went off"):
        both()
    assert both() == expected
    # Four steps each; those after the evaluation at step 2 were lost once.
    assert len(made) == 4 * 4 + 1
    assert both() == expected
    assert len(made) == 4 * 4 + 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"max_steps": 5}, "runs/one-seed0 was trained with max_steps 3, not 5; delete it, or"),
        ({"learning_rate": 0.5}, "can't be resumed with other settings: learning_rate"),
    ],
)
def test_runs_of_other_settings_are_not_taken_for_these(workplace, changes, line):
    compare(config(experiment_name="one"), config(experiment_name="two"), seeds=2)
    with pytest.raises(ConfigError, match=line):
        compare(config(experiment_name="one", **changes), config(experiment_name="two"), seeds=2)


def test_an_interruption_ends_it(workplace, monkeypatch):
    train = seeds.train

    def interrupted(settings: TrainConfig):
        result = train(settings)
        return type(result)(**{**result.__dict__, "interrupted": True})

    monkeypatch.setattr(seeds, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(config(experiment_name="one"), config(experiment_name="two"), seeds=2)
    assert [path.name for path in Path("runs").glob("[!.]*")] == ["one-seed0"]


def test_different_tokenizers_are_compared_by_bits_per_byte(workplace):
    gptlab.train_bpe(["text.txt"], vocab_size=262).save("tok2")
    a, b = config(), config(tokenizer="tok2")
    result = compare(a, b, seeds=2)
    assert (result.a, result.b) == ("a", "b")
    assert result.unit == "bits per byte"
    records = [r for r in read_metrics(Path("runs/b-seed1")) if r["split"] == "eval"]
    assert result.values["at the end"]["b"][1] == records[-1]["bits_per_byte"]


@pytest.mark.parametrize("changes", [{}, {"tokenizer": "tok2"}])
def test_different_evaluation_texts_are_refused_before_training(workplace, changes):
    gptlab.train_bpe(["text.txt"], vocab_size=262).save("tok2")
    (workplace / "other.txt").write_text("A dog sat on another mat. " * 30)
    with pytest.raises(ConfigError, match="a and b are evaluated on different texts; give both"):
        compare(config(), config(eval_data="other.txt", **changes))
    assert not list(Path("runs").glob("[!.]*"))


@pytest.mark.parametrize(
    ("names", "count", "line"),
    [
        (("x", "y"), 1, "seeds is 1, but an interval needs at least 2; 5 is usual"),
        (("x", "x"), 5, "both are called 'x', as are their runs then; rename one"),
    ],
)
def test_what_can_not_be_compared(workplace, names, count, line):
    a, b = (config(experiment_name=name) for name in names)
    with pytest.raises(ConfigError, match=line):
        compare(a, b, seeds=count)


# Models, window by window.


def trained(name: str, **changes: object) -> Path:
    return gptlab.train(config(experiment_name=name, **changes)).path


def test_windows_together_are_the_evaluation(workplace):
    folder = trained("one")
    model, tokenizer = gptlab.load(folder)
    inputs = load_inputs(config(), saved=tokenizer, say=lambda _line: None)
    nats, tokens = window_losses(
        model, inputs.evaluation, length=16, config=config(), arithmetic=CPU
    )
    whole = evaluate(model, *inputs.evaluation, batch_size=5, arithmetic=CPU)
    (dataset,) = inputs.evaluation
    assert isinstance(dataset, TokenDataset)
    assert sum(tokens) == whole.tokens == len(dataset) - 1
    assert tokens[:-1] == [16] * (len(tokens) - 1)
    assert sum(nats) / sum(tokens) == pytest.approx(whole.loss, rel=1e-5)


def test_two_models_on_the_text_of_the_first(workplace):
    trained("slow", learning_rate=1e-9)
    trained("fast", learning_rate=1e-2, max_steps=20)
    result = compare_models("runs/slow", "runs/fast", device="cpu", precision="fp32")
    (loss,) = result.measures.values()
    assert loss.a == pytest.approx(final("slow"), rel=1e-5)
    assert loss.b == pytest.approx(final("fast"), rel=1e-5)
    assert loss.is_clear
    assert result.verdict.startswith("fast is better than slow by")
    assert f"on {loss.pairs:,} windows" in result.verdict
    turned = compare_models("runs/fast", "runs/slow", device="cpu", precision="fp32")
    assert turned.measures["loss"].difference == pytest.approx(-loss.difference)


def test_checkpoints_of_one_run(workplace):
    trained("one", save_every=2, learning_rate=1e-2)
    result = compare_models("runs/one/one_s2", "runs/one/last", device="cpu", precision="fp32")
    assert (result.a, result.b) == ("one/one_s2", "one/last")
    assert result.measures["loss"].difference < 0


def test_models_of_one_name_are_told_apart(workplace):
    trained("x")
    trained("x", runs_dir="more", learning_rate=1e-2)
    result = compare_models("runs/x", "more/x", device="cpu", precision="fp32")
    assert result.a.startswith("runs/x")
    assert result.b.startswith("more/x")


def test_other_tokenizers_and_shorter_contexts_are_refused(workplace):
    gptlab.train_bpe(["text.txt"], vocab_size=262).save("tok2")
    trained("one")
    trained("other", tokenizer="tok2")
    trained("short", seq_len=8)
    with pytest.raises(ConfigError, match="one and other have different tokenizers"):
        compare_models("runs/one", "runs/other", device="cpu")
    with pytest.raises(ConfigError, match="windows of one have 16 tokens, but short reads 8; "):
        compare_models("runs/one", "runs/short", device="cpu")
    result = compare_models("runs/short", "runs/one", device="cpu", precision="fp32")
    assert result.measures["loss"].a == pytest.approx(final("short"), rel=1e-5)


def test_what_is_no_run_or_twice_the_same(workplace):
    folder = trained("one")
    model, tokenizer = gptlab.load(folder)
    gptlab.save("alone", model, tokenizer)
    with pytest.raises(ConfigError, match=r"alone lies in no run, whose config.json would say"):
        compare_models("alone", "runs/one", device="cpu")
    with pytest.raises(ConfigError, match="both are runs/one/last-3; give two different models"):
        compare_models("runs/one", "runs/one/last", device="cpu")
    with pytest.raises(CheckpointError, match="runs/two does not exist"):
        compare_models("runs/one", "runs/two", device="cpu")
