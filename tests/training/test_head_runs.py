"""Heads trained by the loop: against a loop by hand, in parts, resumed, by several processes."""

import math

import pytest
import torch
from gradients import assert_parts_give_the_same
from head_tasks import HEADS, records, rows_of, weights, write
from jobs import run_job

import gptlab
from gptlab.checkpoint import find_checkpoint
from gptlab.config import TrainConfig
from gptlab.errors import CheckpointError, ConfigError, DataError
from gptlab.prediction import ModelWithHead
from gptlab.training import loop, run_tokenizer, train
from gptlab.training.metrics import read_metrics
from gptlab.training.session import open_session
from gptlab.training.step import rate_of, train_step

pytestmark = pytest.mark.usefixtures("without_plots")


def loss_by_hand(head, model, batch):
    """The mean over the targets of a batch, row by row, without filling."""
    total, count = 0.0, 0
    for row in range(len(batch.targets)):
        target = batch.targets[row]
        if head == "embedding":
            texts = [batch.inputs[row, side, : batch.lengths[row, side]] for side in (0, 1)]
            one, two = (model.hidden_states(text.unsqueeze(0))[0, -1] for text in texts)
            total += (one @ two / (one.norm() * two.norm()) - target[0]) ** 2
            count += 1
            continue
        length = int(batch.lengths[row])
        states = model.hidden_states(batch.inputs[row : row + 1, :length])[0]
        outputs = states @ model.head.proj.weight.T + model.head.proj.bias
        if head == "regression":
            total += ((outputs[-1] - target) ** 2).mean()
            count += 1
        elif head == "sequence_classification":
            total -= outputs[-1].log_softmax(0)[target]
            count += 1
        else:
            for place in range(length):
                if target[place] >= 0:
                    total -= outputs[place].log_softmax(0)[target[place]]
                    count += 1
    return total / count


@pytest.mark.parametrize("head", HEADS)
def test_steps_are_those_of_a_loop_by_hand(head_run, head):
    config = head_run(head, max_steps=3, weight_decay=0.0, grad_clip=0)
    session, other = open_session(config), open_session(config)
    with session.loader, other.loader:
        model = other.model
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], betas=(0.9, 0.95), weight_decay=0
        )
        for step in range(3):
            report = train_step(session, session.module)
            loss = loss_by_hand(head, model, other.batch(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = rate_of(other, step)
            optimizer.step()
            assert (report.sums.nats / report.sums.tokens).item() == pytest.approx(
                loss.item(), rel=1e-4
            )
    for name, parameter in session.model.named_parameters():
        assert torch.allclose(parameter, model.get_parameter(name), atol=2e-4), name


@pytest.mark.parametrize("head", HEADS)
def test_micro_batches_give_the_same_gradient(head_run, head):
    assert_parts_give_the_same(head_run(head, batch_size=7), parts=(2, 7))


@pytest.mark.parametrize("head", HEADS)
def test_killed_and_resumed_is_bit_exact(head_run, head, monkeypatch):
    straight = train(head_run(head, experiment_name="straight", dropout=0.1)).path
    plain = loop.train_step

    def dying(session, forward):
        if session.state.step == 8:
            raise KeyboardInterrupt
        return plain(session, forward)

    monkeypatch.setattr(loop, "train_step", dying)
    config = head_run(head, experiment_name="broken", dropout=0.1)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(loop, "train_step", plain)
    broken = train(config.model_copy(update={"resume": True})).path
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        one, two = ((find_checkpoint(run) / name).read_bytes() for run in (straight, broken))
        assert one == two
    assert records(broken) == records(straight)


def test_a_classifier_learns_what_a_word_decides(head_run):
    result = train(head_run(max_steps=60, eval_steps=20))
    assert result.eval_loss < 0.05
    last = [record for record in read_metrics(result.path) if record["split"] == "eval"][-1]
    assert last["accuracy"] == last["macro_f1"] == 1.0
    assert "perplexity" not in last
    assert not (result.path / "samples.txt").exists()
    model = ModelWithHead.load(result.path)
    assert model.settings.labels == ("bad", "good")
    answers = model.predict(["it was awful", "it was great"])
    assert [answer["label"] for answer in answers] == ["bad", "good"]
    with pytest.raises(CheckpointError, match=r"no language model.*gptlab-predict"):
        gptlab.load(result.path)


def test_words_numbers_and_pairs_are_learned_too(head_run):
    for head, name, bound in (
        ("token_classification", "accuracy", 0.99),
        ("regression", "pearson", 0.8),
        ("embedding", "pearson", 0.8),
    ):
        config = head_run(head, max_steps=80, eval_steps=80, experiment_name=head)
        last = [r for r in read_metrics(train(config).path) if r["split"] == "eval"][-1]
        assert last[name] > bound, head


def test_a_table_and_evaluation_rows_of_their_own(head_run, tmp_path):
    (tmp_path / "train.csv").write_text("review,stars\n" + "it was fine,2\nit was poor,1\n" * 5)
    (tmp_path / "eval.tsv").write_text("review\tstars\nit was fine\t2\n")
    config = head_run(train_data="train.csv", eval_data="eval.tsv", field="review",
                      label_field="stars")  # fmt: skip
    session = open_session(config)
    session.loader.close()
    assert session.config.labels == ("1", "2")
    assert (len(session.inputs.labelled.train), len(session.inputs.labelled.evaluation)) == (10, 1)
    (tmp_path / "eval.tsv").write_text("review\tstars\nit was fine\t2\nwell\t9\n")
    with pytest.raises(DataError, match=r"eval.tsv, line 3: label '9' is none of those to learn"):
        open_session(config)


def test_labels_that_are_named_keep_their_order(head_run):
    session = open_session(head_run(labels=("good", "bad", "odd")))
    session.loader.close()
    assert session.config.labels == ("good", "bad", "odd")
    assert session.model.head.proj.out_features == 3


def test_all_batches_have_one_width_where_they_are_compiled_for(head_run):
    session = open_session(head_run(compile="on"))
    with session.loader:
        assert {session.batch(step).inputs.shape for step in range(3)} == {(5, 24)}


def test_settings_that_do_nothing_are_refused(head_run):
    with pytest.raises(ConfigError, match="z_loss is about next tokens and does nothing with"):
        head_run(z_loss=0.1)
    with pytest.raises(ConfigError, match=r"learns from labels, which the shipped stories lack"):
        TrainConfig(head="regression")
    with pytest.raises(ConfigError, match="chat_template is about next tokens and does nothing"):
        head_run(chat_template="chatml")


@pytest.mark.parametrize(
    "given",
    [
        {"labels": ("good", "bad")},
        {"pooling": "mean"},
        {"normalise": True},
        {"num_values": 2},
        {"label_field": "stars"},
        {"pair_field": "other"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_settings_of_a_head_are_refused_without_one(given):
    with pytest.raises(ConfigError) as refused:
        TrainConfig(train_data="reviews.jsonl", **given)
    assert str(refused.value) == (
        f"{next(iter(given))} does nothing without another head; write --head, as in --head "
        "sequence_classification"
    )


def test_labels_that_changed_are_refused(head_run, tmp_path):
    config = head_run(max_steps=2)
    train(config)
    rows = rows_of("sequence_classification")
    rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]
    write(tmp_path / "sequence_classification.jsonl", rows)
    with pytest.raises(ConfigError, match="has changed since"):
        train(config.model_copy(update={"resume": True, "max_steps": 4}))


def test_patience_ends_a_run(head_run):
    result = train(head_run(learning_rate=1e-9, max_steps=200, eval_steps=2, patience=2))
    assert result.steps < 200
    assert math.isfinite(result.best_eval_loss)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_and_measure_what_one_does(head_run, tmp_path, parallel):
    config = head_run(max_steps=4, eval_steps=2, experiment_name="two", parallel=parallel)
    alone = train(config.replace(experiment_name="one", parallel="ddp")).path
    given = {name: getattr(config, name) for name in config.model_fields_set}
    script = f"import gptlab; gptlab.train(gptlab.TrainConfig(**{given!r}))"
    for ended in run_job(tmp_path, size=2, script=script):
        assert ended.code == 0, ended.errors
    for one, two in zip(records(alone), records(tmp_path / "runs" / "two"), strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == (pytest.approx(value, rel=1e-3) if name != "split" else value)
    for name, tensor in weights(alone).items():
        assert torch.allclose(weights(tmp_path / "runs" / "two")[name], tensor, atol=1e-3), name


def test_a_tokenizer_of_the_same_texts_is_trained_once(head_run, monkeypatch):
    first = open_session(head_run())
    first.loader.close()

    def again(*_, **__):
        raise AssertionError

    monkeypatch.setattr(run_tokenizer, "train_bpe", again)
    second = open_session(head_run())
    second.loader.close()
    assert second.inputs.tokenizer == first.inputs.tokenizer
    with pytest.raises(AssertionError):
        open_session(head_run(lower_case=True))
    with pytest.raises(AssertionError):
        open_session(head_run("regression"))
