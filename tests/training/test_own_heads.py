"""Heads of one's own, trained by the loop."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from head_tasks import rows_of, write

from gptlab.errors import ConfigError
from gptlab.model.head import EmptyHead
from gptlab.prediction import ModelWithHead
from gptlab.training import train

pytestmark = pytest.mark.usefixtures("without_plots")


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


def test_a_head_of_ones_own_is_trained_by_its_own_loss(head_run):
    config = head_run("own", max_steps=60, patience=0, train_data=write_task())
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


def test_a_loss_that_is_a_mean_is_refused(head_run):
    config = head_run("own", train_data=write_task())
    with pytest.raises(ConfigError, match=r"the loss of Mean is \(\), but its targets weigh"):
        train(config, head=Mean)


def test_a_loss_that_is_not_written_is_refused(head_run):
    config = head_run("own", train_data=write(Path("n.jsonl"), rows_of("regression")))
    with pytest.raises(ConfigError, match="EmptyHead has no loss to train with; write its method"):
        train(config, head=EmptyHead)
