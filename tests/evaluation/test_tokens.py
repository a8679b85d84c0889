import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gptlab
from gptlab.data import DatasetWriter, TokenDataset
from gptlab.errors import CheckpointError, ConfigError, DataError
from gptlab.evaluation import Subject, held_out_text, open_subject, score_tokens
from gptlab.evaluation.comparison import mean_and_error
from gptlab.evaluation.held_out import documents
from gptlab.evaluation.tokens import tokens_ahead
from gptlab.training.metrics import read_metrics


@pytest.fixture
def subject(trained) -> Subject:
    return open_subject(trained, device="cpu", precision="fp32")


def text_of(subject: Subject, *data: str) -> tuple[TokenDataset, ...]:
    return held_out_text(subject, data, runs_dir="runs")


# The mean and its error.


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=9))
def test_with_equal_sizes_it_is_the_plain_standard_error(values):
    mean, error = mean_and_error(values)
    own = sum(values) / len(values)
    variance = sum((value - own) ** 2 for value in values) / (len(values) - 1)
    assert mean == pytest.approx(own, abs=1e-9)
    assert error == pytest.approx(math.sqrt(variance / len(values)), abs=1e-9)


def test_a_single_sample_has_no_error():
    mean, error = mean_and_error([6.0], [3.0])
    assert mean == 2
    assert math.isnan(error)


# The rank of a token.


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_tokens_ahead_are_those_before_it_in_a_stable_order(logits, data):
    target = data.draw(st.integers(0, len(logits) - 1))
    order = sorted(range(len(logits)), key=lambda id: -logits[id])
    ahead = tokens_ahead(torch.tensor([[logits]]), torch.tensor([[target]]))
    assert ahead.item() == order.index(target)


# The scores.


def by_hand(subject: Subject, ids: list[int]) -> tuple[list[float], list[int]]:
    """Nats and rank of each token but the first, window by window of one row."""
    nats, ranks = [], []
    length = subject.model.config.seq_len
    for first in range(0, len(ids) - 1, length):
        window = ids[first : first + length + 1]
        with torch.no_grad():
            (logits_TV,) = subject.model(torch.tensor([window[:-1]]))
        for scores, target in zip(logits_TV.double(), window[1:], strict=True):
            nats.append(-scores.log_softmax(0)[target].item())
            ranks.append(sorted(range(len(scores)), key=lambda id: -scores[id]).index(target))
    return nats, ranks


def test_they_are_those_of_each_token_by_hand(subject):
    text = "The cat ran to the dog. A mat sat, and then another one did.\n" * 3
    Path("other.txt").write_text(text)
    tokenizer = subject.tokenizer
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    nats, ranks = by_hand(subject, tokenizer.encode(text) + eos)
    scores = score_tokens(subject, text_of(subject, "other.txt"), batch_size=3)
    assert scores.tokens == len(nats)
    assert scores.windows == math.ceil(len(nats) / 16)
    assert scores.loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    assert scores.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / len(text), rel=1e-5)
    assert scores.top1 == pytest.approx(ranks.count(0) / len(ranks))
    assert scores.top5 == pytest.approx(sum(rank < 5 for rank in ranks) / len(ranks))
    assert 0 < scores.loss_error < 1


def test_on_the_text_of_its_run_it_is_what_the_run_says(subject, trained):
    (record,) = [r for r in read_metrics(trained) if r["split"] == "eval"][-1:]
    scores = score_tokens(subject, text_of(subject), batch_size=3)
    assert scores.loss == pytest.approx(record["loss"], rel=1e-5)
    assert scores.bits_per_byte == pytest.approx(record["bits_per_byte"], rel=1e-5)
    assert score_tokens(subject, text_of(subject), batch_size=3) == scores


def test_several_texts_and_prepared_data_count_together(subject):
    Path("a.txt").write_text("The cat sat.\n" * 9)
    Path("b.txt").write_text("A dog ran away.\n" * 9)
    (prepared,) = text_of(subject, "b.txt")
    a, b, both, mixed = (
        score_tokens(subject, text_of(subject, *data), batch_size=2)
        for data in (["a.txt"], ["b.txt"], ["a.txt", "b.txt"], ["a.txt", str(prepared.folder)])
    )
    assert both.tokens == a.tokens + b.tokens + 1
    assert mixed.tokens == a.tokens + b.tokens
    assert mixed.loss * mixed.tokens == pytest.approx(a.loss * a.tokens + b.loss * b.tokens)


def test_one_window_has_no_error(subject):
    Path("short.txt").write_text("The cat")
    scores = score_tokens(subject, text_of(subject, "short.txt"), batch_size=2)
    assert scores.windows == 1
    assert math.isnan(scores.loss_error)


# What is held out.


def test_documents_are_the_texts(subject):
    Path("folder").mkdir()
    texts = ["one\ntwo\n", "three", "é ß\n\n"]
    for number, text in enumerate(texts):
        Path("folder", f"{number}.txt").write_text(text)
    assert list(documents(text_of(subject, "folder"), subject.tokenizer)) == texts


def test_what_can_not_be_evaluated(subject, trained):
    Path("empty.txt").touch()
    Path("one.txt").write_text("T")
    other = gptlab.train_bpe(["text.txt"], vocab_size=262)
    writer = DatasetWriter(Path("other"), vocab_size=262)
    writer.write([1, 2, 3])
    writer.end_document()
    writer.finish(characters=3, bytes=3, tokenizer=other.fingerprint(), source={})
    for data, line in {
        "none.txt": "none.txt",
        "empty.txt": "empty.txt",
        "other": "other was prepared with another tokenizer",
    }.items():
        with pytest.raises(DataError, match=line):
            text_of(subject, data)
    gptlab.save("alone", subject.model, subject.tokenizer)
    with pytest.raises(ConfigError, match=r"alone lies in no run, whose config.json would say"):
        text_of(open_subject("alone", device="cpu"))
    assert text_of(open_subject("alone", device="cpu"), "text.txt")
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        open_subject("nowhere", device="cpu")
