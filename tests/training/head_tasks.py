"""Tasks for heads that a word decides, and what is left of a run, for tests."""

import json

import torch
import torch.nn.functional as F

from gptlab.checkpoint import find_checkpoint, load_tensors
from gptlab.model.head import EmptyHead
from gptlab.training.metrics import MEASURED, read_metrics

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


def records(folder):
    return [
        {name: value for name, value in record.items() if name not in MEASURED}
        for record in read_metrics(folder)
    ]


def weights(folder):
    return load_tensors(find_checkpoint(folder) / "model.safetensors")


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
