"""Heads, adapters, added tokens, lower case and averages of weights, together in a run."""

import json
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab import interop
from gptlab.checkpoint import find_checkpoint, load_tensors
from gptlab.config import TrainConfig
from gptlab.errors import CheckpointError
from gptlab.prediction import ModelWithHead
from gptlab.training import train
from gptlab.training.session import open_session
from gptlab.training.step import train_step

pytestmark = pytest.mark.usefixtures("without_plots")

DECAY = 0.9


@pytest.fixture
def tune(tiny):
    """Settings of a run that begins with a tiny trained model, with a head or none."""
    rows = [
        {"text": f"<NEW> it was {word} {n}", "label": label}
        for n in range(8)
        for word, label in (("GOOD", "yes"), ("bad", "no"))
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = train(tiny(experiment_name="base", num_layers=2, max_steps=4)).path

    def make(*, head: bool, **changes: object) -> TrainConfig:
        own = {"head": "sequence_classification", "train_data": "rows.jsonl", "dev_size": 0.3}
        usual = {
            "init_from": str(base),
            "train_data": "cats.txt",
            "experiment_name": "tuned",
            "batch_size": 4,
            "max_steps": 6,
            "eval_steps": 3,
            "learning_rate": 1e-2,
            "sample_length": 0,
            "device": "cpu",
            "precision": "fp32",
            "attention": "reference",
            "compile": "off",
            "quiet": True,
        }
        return TrainConfig(**{**usual, **(own if head else {}), **changes})

    return make


def learned(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's last checkpoint."""
    checkpoint = find_checkpoint(path)
    return {
        name: tensor
        for file in checkpoint.glob("*.safetensors")
        for name, tensor in load_tensors(file).items()
    }


@pytest.mark.parametrize(
    ("head", "changes"),
    [(True, {}), (True, {"lora_rank": 2}), (False, {"lora_rank": 2})],
    ids=["head", "head and adapters", "adapters"],
)
def test_the_average_is_of_what_learns_and_of_nothing_else(tune, head, changes):
    config = tune(head=head, ema_decay=DECAY, **changes)
    session = open_session(config.model_copy(update={"experiment_name": "by_hand"}))
    learning = {name: p for name, p in session.model.named_parameters() if p.requires_grad}
    average = {name: p.detach().double().clone() for name, p in learning.items()}
    still = {name: t.clone() for name, t in session.model.state_dict().items()}
    with session.loader:
        for step in range(1, 7):
            train_step(session, session.module)
            kept = min(DECAY, (1 + step) / (10 + step))
            for name, p in learning.items():
                average[name] = kept * average[name] + (1 - kept) * p.detach().double()
    saved = learned(train(config).path)
    assert saved.keys() == still.keys()
    assert any(name.startswith("head.") for name in average) == head
    for name, tensor in saved.items():
        if name in average:
            torch.testing.assert_close(tensor.double(), average[name], rtol=0, atol=1e-5)
            assert not torch.equal(tensor, still[name]), name
        else:
            assert torch.equal(tensor, still[name]), name


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}], ids=["all", "adapters"])
def test_a_head_reads_added_tokens_and_lower_case(tune, changes):
    config = tune(head=True, special_tokens=["<NEW>"], lower_case=True, **changes)
    session = open_session(config)
    with session.loader:
        batch = session.batch(0)
    assert (batch.inputs[:, 0] == 270).all()
    assert (batch.inputs[:, 1:] != 270).all()
    path = train(config).path
    model = ModelWithHead.load(path)
    assert model.backbone.config.vocab_size == model.tokenizer.vocab_size == 271
    answers = model.predict(["<NEW> it was GOOD", "<NEW> IT was good", "it was good"])
    assert answers[0] == answers[1] != answers[2]
    again = ModelWithHead.load(model.save("alone"))
    assert again.predict(["<NEW> it was GOOD"])[0] == answers[0]


def test_the_model_below_a_head_is_one_again_without_it(tune):
    path = train(tune(head=True)).path
    model = ModelWithHead.load(path)
    backbone = model.backbone
    backbone.head = None
    gptlab.save("below", backbone, model.tokenizer)
    assert torch.equal(gptlab.load("below")[0].norm.weight, backbone.norm.weight)


def test_adapters_below_a_head_are_not_for_another_model(tune):
    path = train(tune(head=True, lora_rank=2)).path
    with pytest.raises(CheckpointError, match=r"last-6 has a head beside its adapters; load it wh"):
        interop.load("runs/base", adapter=path)
