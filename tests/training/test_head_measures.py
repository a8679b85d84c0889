"""What an evaluation of a head says, against a loop over its rows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from head_tasks import HEADS

from gptlab.training import head_evaluation
from gptlab.training.session import open_session

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.mark.parametrize("head", HEADS)
def test_what_is_measured_is_what_a_loop_over_rows_gives(head_run, head):
    session = open_session(head_run(head))
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
