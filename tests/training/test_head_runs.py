"""Heads trained by the loop: against a loop by hand, in parts, resumed, on a trained model."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradients import assert_parts_give_the_same
from jobs import run_job

import gptlab
from gptlab.checkpoint import find_checkpoint, load_tensors
from gptlab.config import TrainConfig
from gptlab.errors import CheckpointError, ConfigError, DataError
from gptlab.model.head import EmptyHead
from gptlab.prediction import ModelWithHead
from gptlab.training import head_evaluation, loop, train
from gptlab.training.metrics import MEASURED, read_metrics
from gptlab.training.session import open_session
from gptlab.training.step import rate_of, train_step

pytestmark = pytest.mark.usefixtures("without_plots")

WORDS = {"good": ["fine", "great"], "bad": ["poor", "awful"]}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(head, count=40):
    """A task that a word decides."""
    made = []
    for n in range(count):
        label = ("good", "bad")[n % 2]
        word = WORDS[label][n // 2 % 2]
        text = f"{'it ' * (n % 3)}was {word}"
        if head == "sequence_classification":
            made.append({"text": text, "label": label})
        elif head == "regression":
            made.append({"text": text, "label": [float(n % 2), n % 3 / 2]})
        elif head == "token_classification":
            words = text.split()
            labels = [label if w == word else "O" for w in words]
            made.append({"tokens": words, "labels": labels})
        else:
            other = WORDS[("good", "bad")[n // 4 % 2]][0]
            same = other in WORDS[label]
            made.append({"text": text, "text_2": f"it was {other}", "label": 1.0 if same else 0.0})
    return made


HEADS = ("sequence_classification", "regression", "token_classification", "embedding")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings of a tiny run of a head, with changes."""
    monkeypatch.chdir(tmp_path)

    def make(head="sequence_classification", **changes):
        return TrainConfig(
            **{
                "head": head,
                "train_data": write(tmp_path / f"{head}.jsonl", rows_of(head)),
                "dev_size": 0.3,
                "experiment_name": "tiny",
                "vocab_size": 270,
                "seq_len": 24,
                "embed_dim": 16,
                "num_layers": 1,
                "n_heads": 2,
                "batch_size": 5,
                "max_steps": 12,
                "eval_steps": 5,
                "log_every": 3,
                "learning_rate": 1e-2,
                "device": "cpu",
                "precision": "fp32",
                "quiet": True,
                **changes,
            }
        )

    return make


def records(folder):
    return [
        {name: value for name, value in record.items() if name not in MEASURED}
        for record in read_metrics(folder)
    ]


def weights(folder):
    return load_tensors(find_checkpoint(folder) / "model.safetensors")


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
def test_steps_are_those_of_a_loop_by_hand(settings, head):
    config = settings(head, max_steps=3, weight_decay=0.0, grad_clip=0)
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
def test_micro_batches_give_the_same_gradient(settings, head):
    assert_parts_give_the_same(settings(head, batch_size=7), parts=(2, 7))


@pytest.mark.parametrize("head", HEADS)
def test_killed_and_resumed_is_bit_exact(settings, head, monkeypatch):
    straight = train(settings(head, experiment_name="straight", dropout=0.1)).path
    plain = loop.train_step

    def dying(session, forward):
        if session.state.step == 8:
            raise KeyboardInterrupt
        return plain(session, forward)

    monkeypatch.setattr(loop, "train_step", dying)
    config = settings(head, experiment_name="broken", dropout=0.1)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(loop, "train_step", plain)
    broken = train(config.model_copy(update={"resume": True})).path
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        one, two = ((find_checkpoint(run) / name).read_bytes() for run in (straight, broken))
        assert one == two
    assert records(broken) == records(straight)


def test_a_classifier_learns_what_a_word_decides(settings):
    result = train(settings(max_steps=60, eval_steps=20))
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


def test_words_numbers_and_pairs_are_learned_too(settings):
    for head, name, bound in (
        ("token_classification", "accuracy", 0.99),
        ("regression", "pearson", 0.8),
        ("embedding", "pearson", 0.8),
    ):
        config = settings(head, max_steps=80, eval_steps=80, experiment_name=head)
        last = [r for r in read_metrics(train(config).path) if r["split"] == "eval"][-1]
        assert last[name] > bound, head


@pytest.mark.parametrize("head", HEADS)
def test_what_is_measured_is_what_a_loop_over_rows_gives(settings, head):
    session = open_session(settings(head))
    session.loader.close()
    dataset = session.inputs.labelled.evaluation
    found = head_evaluation.evaluate_head(
        session.objective, dataset, batch_size=3, device=torch.device("cpu")
    )
    model = session.model.eval()
    true, guessed, losses = [], [], []
    for number in range(len(dataset)):
        batch = dataset.batch(np.array([number]))
        inputs = torch.from_numpy(batch.inputs)
        targets = torch.from_numpy(batch.targets)
        lengths = torch.from_numpy(batch.lengths)
        states = model.hidden_states(inputs.flatten(0, -2))
        outputs = model.head(states, lengths.flatten())
        if head == "embedding":
            outputs = outputs.unsqueeze(0)
            guess = F.cosine_similarity(outputs[:, 0], outputs[:, 1])
            losses.append(((guess - targets[0, 0]) ** 2).item())
            true.append(targets[0].tolist())
            guessed.append(guess.tolist())
        elif head == "regression":
            losses.append(((outputs - targets) ** 2).mean().item())
            true.append(targets[0].tolist())
            guessed.append(outputs[0].tolist())
        else:
            for logits, target in zip(
                outputs.reshape(-1, outputs.shape[-1]), targets.flatten(), strict=True
            ):
                if target >= 0:
                    losses.append(-logits.log_softmax(0)[target].item())
                    true.append(int(target))
                    guessed.append(int(logits.argmax()))
    assert found.targets == len(losses)
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    if head in ("regression", "embedding"):
        t, g = np.array(true), np.array(guessed)
        assert found.mean_squared_error == pytest.approx(((t - g) ** 2).mean(), rel=1e-4)
        pearson = [np.corrcoef(t[:, k], g[:, k])[0, 1] for k in range(t.shape[1])]
        assert found.pearson == pytest.approx(np.mean(pearson), abs=1e-3)
    else:
        hits = [a == b for a, b in zip(true, guessed, strict=True)]
        assert found.accuracy == pytest.approx(sum(hits) / len(hits))
        assert found.macro_f1 == pytest.approx(macro_f1(true, guessed))


def macro_f1(true, guessed):
    scores = []
    for label in {*true, *guessed}:
        pairs = list(zip(true, guessed, strict=True))
        hit = sum(t == g == label for t, g in pairs)
        precision = hit / max(1, sum(g == label for _, g in pairs))
        recall = hit / max(1, sum(t == label for t, _ in pairs))
        scores.append(0 if not hit else 2 * precision * recall / (precision + recall))
    return sum(scores) / len(scores)


def test_what_never_varies_has_no_correlation():
    targets = torch.tensor([[1.0], [1.0]])
    tally = head_evaluation.tally_of(torch.tensor([[0.5], [0.7]]), targets, 0)
    found = head_evaluation.of_numbers(tally)
    assert found["pearson"] is None
    assert found["mean_squared_error"] == pytest.approx((0.25 + 0.09) / 2)


@pytest.fixture
def backbone(settings, tmp_path):
    """A language model that is trained already."""
    (tmp_path / "text.txt").write_text("it was fine. it was poor. it was great. " * 20)
    shape = {"embed_dim": 16, "num_layers": 2, "n_heads": 2, "seq_len": 24, "vocab_size": 270}
    config = TrainConfig(
        train_data="text.txt", max_steps=2, batch_size=4, experiment_name="lm", device="cpu",
        precision="fp32", quiet=True, **shape,
    )  # fmt: skip
    return train(config).path


def tuned(backbone, settings, **changes):
    given = settings().model_dump(
        include={
            "head",
            "train_data",
            "batch_size",
            "max_steps",
            "eval_steps",
            "device",
            "precision",
            "quiet",
        }
    )
    own = {"init_from": str(backbone), "experiment_name": "tuned"}
    return TrainConfig(**{**given, **own, **changes})


def test_a_head_learns_on_a_trained_model(backbone, settings):
    path = train(tuned(backbone, settings, max_steps=40, learning_rate=1e-2)).path
    before, after = weights(backbone), weights(path)
    assert after.keys() - before.keys() == {"head.proj.weight", "head.proj.bias"}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "lm_head.weight" not in moved
    assert "blocks.0.attention.qkv_proj.weight" in moved
    model = ModelWithHead.load(path)
    assert [a["label"] for a in model.predict(["it was awful", "it was fine"])] == ["bad", "good"]


def test_the_last_layers_and_the_head_learn_alone(backbone, settings):
    path = train(tuned(backbone, settings, train_last_layers=1)).path
    before, after = weights(backbone), weights(path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("blocks.1.", "norm.")) for name in moved)


@pytest.mark.parametrize("frozen", [{"train_last_layers": 1}, {"lora_rank": 2}])
def test_a_part_that_learns_is_resumed_bit_exact(backbone, settings, frozen, monkeypatch):
    straight = train(tuned(backbone, settings, experiment_name="straight", **frozen)).path
    plain = loop.train_step

    def dying(session, forward):
        if session.state.step == 8:
            raise KeyboardInterrupt
        return plain(session, forward)

    monkeypatch.setattr(loop, "train_step", dying)
    config = tuned(backbone, settings, **frozen)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(loop, "train_step", plain)
    resumed = train(config.model_copy(update={"resume": True})).path
    for file in find_checkpoint(straight).rglob("*.safetensors"):
        other = find_checkpoint(resumed) / file.relative_to(find_checkpoint(straight))
        assert other.read_bytes() == file.read_bytes(), file.name
    assert records(resumed) == records(straight)


def test_adapters_and_the_head_learn_beside_a_base_that_stays(backbone, settings):
    path = train(tuned(backbone, settings, lora_rank=4, max_steps=60, learning_rate=2e-2)).path
    before, base = weights(backbone), weights(path)
    assert all(torch.equal(before[name], base[name]) for name in before)
    learned = load_tensors(find_checkpoint(path) / "adapter.safetensors")
    assert {"head.proj.weight", "head.proj.bias"} <= learned.keys()
    assert learned["head.proj.weight"].abs().max() > 0.05
    model = ModelWithHead.load(path)
    assert [a["label"] for a in model.predict(["it was awful", "it was fine"])] == ["bad", "good"]
    again = ModelWithHead.load(model.save("merged"))
    assert again.predict(["it was awful"]) == model.predict(["it was awful"])


class Hinge(EmptyHead):
    """A head of one's own: which side of zero a text is on."""

    targets = "class"

    def __init__(self, settings, *, width):
        super().__init__(settings, width=width)
        self.out = torch.nn.Linear(width, 1)

    def forward(self, hidden_BTD, lengths_B):
        return self.out(hidden_BTD[torch.arange(len(lengths_B)), lengths_B - 1]).squeeze(-1)

    def loss(self, outputs, targets):
        return F.relu(1 - outputs.float() * (2 * targets - 1))

    def estimate(self, outputs):
        return (outputs > 0).long()

    def answer(self, output, places):  # noqa: ARG002
        return {"label": self.settings.labels[int(output > 0)]}


def test_a_head_of_ones_own_is_trained_by_its_own_loss(settings):
    config = settings("own", max_steps=60, patience=0, train_data=write_task())
    result = train(config, head=Hinge)
    assert result.eval_loss < 0.1
    model = ModelWithHead.load(result.path, head=Hinge)
    answers = model.predict(["it was awful", "it was great"])
    assert answers == [{"label": "bad"}, {"label": "good"}]
    more = config.model_copy(update={"resume": True, "max_steps": 62})
    assert train(more, head=Hinge).steps == 62
    with pytest.raises(ConfigError, match="a class of your own; give it, as in"):
        train(more)


def write_task():
    return write(Path("task.jsonl"), rows_of("sequence_classification"))


class Mean(Hinge):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets).mean()


def test_a_loss_that_is_a_mean_is_refused(settings):
    config = settings("own", train_data=write_task())
    with pytest.raises(ConfigError, match=r"the loss of Mean is \(\), but its targets weigh"):
        train(config, head=Mean)


def test_a_loss_that_is_not_written_is_refused(settings):
    config = settings("own", train_data=write(Path("n.jsonl"), rows_of("regression")))
    with pytest.raises(ConfigError, match="EmptyHead has no loss to train with; write its method"):
        train(config, head=EmptyHead)


def test_a_table_and_evaluation_rows_of_their_own(settings, tmp_path):
    (tmp_path / "train.csv").write_text("review,stars\n" + "it was fine,2\nit was poor,1\n" * 5)
    (tmp_path / "eval.tsv").write_text("review\tstars\nit was fine\t2\n")
    config = settings(train_data="train.csv", eval_data="eval.tsv", field="review",
                      label_field="stars")  # fmt: skip
    session = open_session(config)
    session.loader.close()
    assert session.config.labels == ("1", "2")
    assert (len(session.inputs.labelled.train), len(session.inputs.labelled.evaluation)) == (10, 1)
    (tmp_path / "eval.tsv").write_text("review\tstars\nit was fine\t2\nwell\t9\n")
    with pytest.raises(DataError, match=r"eval.tsv, line 3: label '9' is none of those to learn"):
        open_session(config)


def test_labels_that_are_named_keep_their_order(settings):
    session = open_session(settings(labels=("good", "bad", "odd")))
    session.loader.close()
    assert session.config.labels == ("good", "bad", "odd")
    assert session.model.head.proj.out_features == 3


def test_all_batches_have_one_width_where_they_are_compiled_for(settings):
    session = open_session(settings(compile="on"))
    with session.loader:
        assert {session.batch(step).inputs.shape for step in range(3)} == {(5, 24)}


def test_settings_that_do_nothing_are_refused(settings):
    with pytest.raises(ConfigError, match="z_loss is about next tokens and does nothing with"):
        settings(z_loss=0.1)
    with pytest.raises(ConfigError, match=r"learns from labels, which the shipped stories lack"):
        TrainConfig(head="regression")
    with pytest.raises(ConfigError, match="chat_template is about next tokens and does nothing"):
        settings(chat_template="chatml")


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


def test_labels_that_changed_are_refused(settings, tmp_path):
    config = settings(max_steps=2)
    train(config)
    rows = rows_of("sequence_classification")
    rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]
    write(tmp_path / "sequence_classification.jsonl", rows)
    with pytest.raises(ConfigError, match="has changed since"):
        train(config.model_copy(update={"resume": True, "max_steps": 4}))


def test_patience_ends_a_run(settings):
    result = train(settings(learning_rate=1e-9, max_steps=200, eval_steps=2, patience=2))
    assert result.steps < 200
    assert math.isfinite(result.best_eval_loss)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_and_measure_what_one_does(settings, tmp_path, parallel):
    config = settings(max_steps=4, eval_steps=2, experiment_name="two", parallel=parallel)
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
