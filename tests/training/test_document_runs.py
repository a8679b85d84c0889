"""Training with documents kept apart, and with targets of different weights."""

import numpy as np
import pytest
import torch

from gptlab.config import ModelConfig
from gptlab.data import Batch
from gptlab.model import GPT
from gptlab.training import train
from gptlab.training.cost import probe
from gptlab.training.loader import DeviceBatch
from gptlab.training.metrics import read_metrics
from gptlab.training.objective import Objective
from gptlab.training.precision import choose_arithmetic
from gptlab.training.session import open_session
from gptlab.training.step import train_step

CPU = choose_arithmetic("cpu", "fp32")
SHORT = [f"cat {number} ran\n" for number in range(60)]
APART = {"document_mask": True, "reset_positions": True}


@pytest.fixture
def model():
    shape = {"vocab_size": 13, "seq_len": 8, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
    return GPT(ModelConfig(**shape), seed=0)


def random_batch(rows=4, length=8):
    random = np.random.default_rng(0)
    begins = random.random((rows, length)) < 0.3
    begins[:, 0] = False
    columns = np.arange(length)
    starts = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    return DeviceBatch.of(
        Batch(
            random.integers(0, 13, (rows, length)),
            random.integers(0, 13, (rows, length)),
            random.choice([0.0, 0.5, 1.0], (rows, length)).astype(np.float32),
            np.cumsum(begins, axis=1),
            columns - starts,
        )
    )


def test_the_loss_is_that_of_the_weighted_targets_of_documents_alone(model):
    batch = random_batch()
    sums = Objective(model, arithmetic=CPU)(batch)
    expected = 0.0
    for row in range(4):
        for number in batch.documents[row].unique():
            own = batch.documents[row] == number
            logits = model(batch.inputs[row, own].unsqueeze(0))[0].double().log_softmax(-1)
            nats = -logits.gather(-1, batch.targets[row, own].unsqueeze(1)).squeeze(1)
            expected += (nats * batch.weights[row, own]).sum().item()
    assert sums.weight.item() == batch.weights.sum().item()
    assert sums.objective.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_split_of_a_batch_has_its_gradient(model, size):
    def gradients(batches):
        sums = [Objective(model, arithmetic=CPU)(batch) for batch in batches]
        loss = sum(part.objective for part in sums) / sum(part.weight for part in sums)
        return torch.autograd.grad(loss, list(model.parameters()))

    batch = random_batch()
    parts = [batch.each(lambda part, n=n: part[n : n + size]) for n in range(0, 4, size)]
    for found, expected in zip(gradients(parts), gradients([batch]), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_steps_and_the_probe_read_documents(tiny, prepare):
    prepare("cats", SHORT, dev=SHORT[:5])
    session = open_session(tiny(train_data="cats", vocab_size=260, **APART))
    batch = session.sampler.batch(0)
    assert batch.documents.max() > 0
    seen = []

    def forward(part):
        seen.append((part.documents.tolist(), part.positions.tolist()))
        return session.objective(part)

    with session.loader:
        probe(session, forward)
        train_step(session, forward)
    assert seen == [(batch.documents.tolist(), batch.positions.tolist())] * 3


@pytest.mark.usefixtures("without_plots")
def test_of_a_single_document_a_run_is_the_usual_one(tiny):
    plain, apart = (
        train(tiny(experiment_name=name, attention="reference", **flags)).path
        for name, flags in (("plain", {}), ("apart", {"document_mask": True}))
    )
    name = "last-12/model.safetensors"
    assert (apart / name).read_bytes() == (plain / name).read_bytes()


@pytest.mark.usefixtures("without_plots")
def test_documents_apart_train_and_are_evaluated_otherwise(tiny, prepare):
    prepare("cats", SHORT, dev=SHORT[:5])
    config = tiny(train_data="cats", vocab_size=260, positions="learned")
    losses = [
        read_metrics(train(config.replace(experiment_name=name, **flags)).path)[-1]["loss"]
        for name, flags in (
            ("plain", {}),
            ("masked", {"document_mask": True}),
            ("reset", {"reset_positions": True}),
            ("both", APART),
        )
    ]
    assert len(set(losses)) == 4


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize("short", ["keep", "pad"])
def test_a_step_divides_by_the_weight_of_its_targets(tiny, prepare, short):
    prepare("cats", SHORT, dev=SHORT[:5], mode="chunk", seq_len=16, short=short)
    session = open_session(tiny(train_data="cats", vocab_size=260))
    batch = session.sampler.batch(0)
    with session.loader:
        weight = train_step(session, session.module).sums.weight.item()
    assert weight == (batch.targets.size if batch.weights is None else batch.weights.sum())
    assert weight < 4 * 16
