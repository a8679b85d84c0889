"""Evaluation against a plain loop, and without a trace."""

import math
import random

import numpy as np
import pytest
import torch

from gptlab.config import ModelConfig
from gptlab.config.preparation import WindowConfig
from gptlab.corpus import open_corpus
from gptlab.data import (
    DatasetWriter,
    TokenDataset,
    prepare_cached,
    sequential_batches,
    text_size,
)
from gptlab.data.text_size import MeasuredDataset
from gptlab.errors import DataError
from gptlab.model import GPT
from gptlab.tokenizer import BPETokenizer
from gptlab.training import evaluate
from gptlab.training.precision import choose_arithmetic

TEXT = "the cat sat; the dög ran. " * 4
CPU = choose_arithmetic("cpu", "fp32")


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    tokenizer = BPETokenizer([(b"t", b"h"), (b"th", b"e")])
    return prepare_cached(open_corpus(tmp_path / "a.txt"), tokenizer, cache=tmp_path / "cache")


@pytest.fixture
def model():
    config = ModelConfig(
        vocab_size=262, seq_len=7, embed_dim=8, num_layers=1, n_heads=2, dropout=0.5
    )
    return GPT(config, seed=0)


def plain_nats(model, dataset) -> float:
    tokens = torch.from_numpy(dataset.read(0, len(dataset)))
    model.eval()
    nats, length = 0.0, model.config.seq_len
    for start in range(0, len(tokens) - 1, length):
        window = tokens[start : start + length + 1]
        logits = model(window[None, :-1])[0].double()
        nats -= logits.log_softmax(-1).gather(-1, window[1:, None]).sum().item()
    return nats


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_equals_a_plain_loop_over_the_whole_set(model, dataset, batch_size):
    with torch.no_grad():
        nats = plain_nats(model, dataset)
    found = evaluate(model, dataset, batch_size=batch_size, arithmetic=CPU)
    count = len(dataset) - 1
    assert found.tokens == count
    assert found.loss == pytest.approx(nats / count, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXT.encode()), rel=1e-6)
    assert found.nats_per_character == pytest.approx(nats / len(TEXT), rel=1e-6)


def dataset_of(folder, documents, **windows):
    writer = DatasetWriter(folder, vocab_size=262)
    for document in documents:
        writer.write(document)
        writer.end_document()
    tokens = sum(map(len, documents))
    writer.finish(
        tokenizer="",
        bytes=2 * tokens,
        characters=tokens,
        windows=WindowConfig(**windows).model_dump(),
    )
    return TokenDataset(folder)


def nats_alone(model, tokens, *, length):
    """Of a document's tokens but the first, in windows from its start."""
    nats = 0.0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = torch.tensor(tokens[start : start + length + 1])
            logits = model(window[None, :-1])[0].double()
            nats -= logits.log_softmax(-1).gather(-1, window[1:, None]).sum().item()
    return nats


DOCUMENTS = [list(range(10, 15)), [7, 8], list(range(40, 59)), [3], [9, 9, 9]]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("short", ["keep", "pad"])
def test_padding_weighs_nothing(model, tmp_path, short, batch_size):
    dataset = dataset_of(tmp_path, DOCUMENTS, mode="chunk", seq_len=7, short=short)
    nats = sum(nats_alone(model, document, length=7) for document in DOCUMENTS)
    count = sum(len(document) - 1 for document in DOCUMENTS)
    found = evaluate(model, dataset, batch_size=batch_size, arithmetic=CPU)
    assert found.tokens == count
    assert found.loss == pytest.approx(nats / count, rel=1e-6)
    # How much text that is takes a tokenizer.
    assert math.isnan(found.bits_per_byte)
    assert math.isnan(found.nats_per_character)


TOKENIZER = BPETokenizer([(b"t", b"h"), (b"th", b"e")])
# Long documents of long tokens, short ones of short tokens: what is left out is not the average.
TEXTS = ["the the the the the the cat. " * 3, "xy", "", "abc", "q", "the end of the text " * 2]


def text_dataset(folder, texts, held_out=None, **windows):
    writer = DatasetWriter(folder, vocab_size=TOKENIZER.vocab_size)
    for text in texts:
        writer.write([*TOKENIZER.encode(text), TOKENIZER.eos_id])
        writer.end_document()
    writer.finish(
        tokenizer=TOKENIZER.fingerprint(),
        bytes=sum(len(text.encode()) for text in texts),
        characters=sum(map(len, texts)),
        windows=WindowConfig(**windows).model_dump(),
        held_out=held_out,
    )
    return MeasuredDataset(folder, tokenizer=TOKENIZER)


def texts_of_targets(dataset):
    """The text of each row of targets, end tokens left out."""
    for batch in sequential_batches(dataset, seq_len=7, batch_size=3):
        weights = np.ones(batch.targets.shape) if batch.weights is None else batch.weights
        for row, weight in zip(batch.targets, weights, strict=True):
            ids = [i for i in row[weight > 0].tolist() if i != TOKENIZER.eos_id]
            yield TOKENIZER.decode(ids)


def part_of_windows(part):
    return {"share": 0.4, "seed": 3, "part": part}


@pytest.mark.parametrize(
    ("windows", "held_out"),
    [
        *[({"mode": "chunk", "seq_len": 7, "short": s}, None) for s in ("keep", "pad", "drop")],
        ({"mode": "segment", "segment_len": 7, "stride": 3}, part_of_windows("train")),
        ({"mode": "segment", "segment_len": 7, "stride": 3}, part_of_windows("dev")),
        ({"mode": "segment", "segment_len": 5, "stride": 5}, part_of_windows("dev")),
        ({"mode": "segment", "segment_len": 4, "stride": 9}, part_of_windows("train")),
    ],
)
def test_bits_are_of_the_text_that_is_predicted(model, tmp_path, monkeypatch, windows, held_out):
    monkeypatch.setattr(text_size, "_WINDOWS", 4)
    dataset = text_dataset(tmp_path, TEXTS, held_out, **windows)
    text = "".join(texts_of_targets(dataset))
    found = evaluate(model, dataset, batch_size=3, arithmetic=CPU)
    assert (dataset.target_characters, dataset.num_targets) == (len(text), found.tokens)
    nats = found.loss * found.tokens
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()))
    assert found.nats_per_character == pytest.approx(nats / len(text))


def test_a_character_that_windows_share_counts_once(tmp_path):
    texts = ["a€é😀 and ü" * 3, "b😀"]
    dataset = text_dataset(tmp_path, texts, mode="chunk", seq_len=2, short="keep")
    whole = "".join(texts)
    assert dataset.target_characters == len(whole) - 2
    assert dataset.target_bytes == len(whole.encode()) - 2


def test_windows_that_predict_no_text_have_no_bits(model, tmp_path):
    dataset = text_dataset(tmp_path, ["a", "b"], mode="chunk", seq_len=7, short="keep")
    found = evaluate(model, dataset, batch_size=2, arithmetic=CPU)
    assert (found.tokens, dataset.target_bytes) == (2, 0)
    assert math.isfinite(found.loss)
    assert math.isnan(found.bits_per_byte)
    assert math.isnan(found.nats_per_character)


def test_several_datasets_add_up(model, dataset, tmp_path):
    other = dataset_of(tmp_path / "other", DOCUMENTS)
    first, second = (
        evaluate(model, part, batch_size=2, arithmetic=CPU) for part in (dataset, other)
    )
    both = evaluate(model, dataset, other, batch_size=2, arithmetic=CPU)
    nats = first.loss * first.tokens + second.loss * second.tokens
    size = len(TEXT.encode()) + 2 * len(other)
    assert both.tokens == first.tokens + second.tokens
    assert both.loss == pytest.approx(nats / both.tokens)
    assert both.bits_per_byte == pytest.approx(nats / math.log(2) / size)
    assert both.nats_per_character == pytest.approx(nats / (len(TEXT) + len(other)))


def test_documents_are_kept_apart_as_in_training(model, tmp_path):
    # All of them within one window, whose other targets are the first tokens of documents.
    dataset = dataset_of(tmp_path, [[5, 6, 7], [8, 9], [10, 11, 12]])
    found = evaluate(
        model, dataset, batch_size=2, arithmetic=CPU, document_mask=True, reset_positions=True
    )
    nats = 0.0
    with torch.no_grad():
        for inputs, targets in [([5, 6, 7], [6, 7, 8]), ([8, 9], [9, 10]), ([10, 11], [11, 12])]:
            logits = model.eval()(torch.tensor([inputs]))[0].double().log_softmax(-1)
            nats -= logits[range(len(targets)), targets].sum().item()
    assert found.tokens == 7
    assert found.loss == pytest.approx(nats / 7, rel=1e-6)
    plain = evaluate(model, dataset, batch_size=2, arithmetic=CPU)
    assert plain.loss != pytest.approx(found.loss, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_mode_and_random_numbers_alone(model, dataset, training):
    model.train(training)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = evaluate(model, dataset, batch_size=2, arithmetic=CPU)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert evaluate(model, dataset, batch_size=2, arithmetic=CPU) == first


def test_a_set_of_one_token_is_refused(model, tmp_path):
    writer = DatasetWriter(tmp_path, vocab_size=262)
    writer.write([3])
    writer.finish(tokenizer="", bytes=1, characters=1)
    with pytest.raises(DataError, match="has 1 tokens, but it takes at least 2"):
        evaluate(model, TokenDataset(tmp_path), batch_size=2, arithmetic=CPU)
