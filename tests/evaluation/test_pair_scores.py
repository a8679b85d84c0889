"""Scores of Transformers against a loop over pairs, greedy generation, and sacrebleu itself."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu import corpus_bleu, corpus_chrf

import gptlab
from gptlab.config import LossConfig
from gptlab.corpus.pairs import PairFields, read_pairs
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation import compare_models
from gptlab.evaluation.inspected import open_any
from gptlab.evaluation.pairs import pairs_named, score_pairs, score_written, write_pairs
from gptlab.generation import Generator
from gptlab.tokenizer.pair import end_id, source_of, start_id
from gptlab.training.metrics import read_metrics
from gptlab.training.pair_evaluation import evaluate_pairs
from gptlab.training.pair_objective import PairObjective
from gptlab.training.ranks import Ranks
from gptlab.training.translations import score_texts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has half learned to spell, with a vocabulary for each side."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = random.Random(0)
    words = sorted({"".join(rng.choices("abc", k=rng.randint(1, 5))) for _ in range(400)})
    lines = [f"{word}\t{' '.join(word)}\n" for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("pairs.tsv").write_text("".join(lines))
        result = gptlab.train(
            gptlab.TrainConfig(
                architecture="transformer", train_data="pairs.tsv", dev_size=0.4, vocab_size=264,
                src_vocab_size=262, seq_len=12, embed_dim=32, num_layers=1, n_heads=2,
                batch_tokens=200, max_steps=80, eval_strategy="no", sample_length=0,
                positions="learned", optimizer="muon",
                learning_rate=1e-2, device="cpu", precision="fp32", compile="off", quiet=True,
                eval_translations=20,
            )
        )  # fmt: skip
        yield folder / result.path


@pytest.fixture
def found(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    return open_any(run, device="cpu", precision="fp32")


def by_hand(found, pairs):
    """Nats, tokens and right tokens of each pair, alone, and what comes of always the likeliest."""
    rows, written = [], []
    of_targets, of_sources = found.tokenizer, source_of(found.tokenizer)
    for pair in pairs:
        source = torch.tensor([[*of_sources.encode(pair.source), end_id(of_sources)]])
        target = [*of_targets.encode(pair.target), end_id(of_targets)]
        inputs = torch.tensor([[start_id(of_targets), *target[:-1]]])
        log_p = found.model(source, inputs)[0].log_softmax(dim=-1)
        nats = -sum(log_p[place, id].item() for place, id in enumerate(target))
        right = sum(int(log_p[place].argmax()) == id for place, id in enumerate(target))
        rows.append((nats, len(target), right))
        ids = [start_id(of_targets)]
        while (len(ids) < 12 and ids[-1] != end_id(of_targets)) or len(ids) == 1:
            ids.append(int(found.model(source, torch.tensor([ids]))[0, -1].argmax()))
        written.append(of_targets.decode([id for id in ids[1:] if id != end_id(of_targets)]))
    return np.array(rows), written


@torch.no_grad()
def test_scores_are_those_of_a_loop_over_pairs(found):
    dataset = pairs_named(found, [])
    texts = {dataset.texts(number) for number in range(len(dataset))}
    pairs = read_pairs(["pairs.tsv"], fields=PairFields())
    pairs = [pair for pair in pairs if (pair.source, pair.target) in texts]
    rows, written = by_hand(found, pairs)
    nats, tokens, right = rows.T
    for batch_size in (7, 64):
        scores = score_pairs(found, dataset, batch_size=batch_size)
        assert scores.loss == pytest.approx(nats.sum() / tokens.sum(), rel=1e-5)
        assert scores.perplexity == pytest.approx(math.exp(scores.loss))
        assert scores.token_accuracy == right.sum() / tokens.sum()
        assert scores.sequence_accuracy == (right == tokens).mean()
        assert (scores.pairs, scores.tokens) == (len(pairs), tokens.sum())
    assert 0.1 < scores.sequence_accuracy < 0.95, "all or nothing is no test"
    expected = [pair.target for pair in pairs]
    found_texts = write_pairs(found, [pair.source for pair in pairs], batch_size=7)
    assert found_texts == written
    result = score_written(written, expected, seconds=2.0)
    assert result.exact == scores.sequence_accuracy
    assert result.exact_error == pytest.approx(scores.sequence_accuracy_error)
    assert result.pairs_per_second == len(pairs) / 2
    assert result.scores.bleu == corpus_bleu(written, [expected]).score
    assert result.scores.chrf == corpus_chrf(written, [expected]).score
    assert 0 < result.scores.bleu < 100
    # As the run itself reported, of its first pairs.
    (record,) = [
        record for record in read_metrics(found.folder.parent) if record["split"] == "eval"
    ]
    assert record["loss"] == pytest.approx(scores.loss, rel=1e-5)
    assert record["sequence_accuracy"] == scores.sequence_accuracy
    first = [dataset.texts(number)[1] for number in range(20)]
    ours = write_pairs(found, [dataset.texts(number)[0] for number in range(20)], batch_size=20)
    assert record["bleu"] == pytest.approx(corpus_bleu(ours, [first]).score)


def test_an_evaluation_in_chunks_and_by_several_processes_is_the_same(found):
    dataset = pairs_named(found, [])
    plain = PairObjective(found.model, arithmetic=found.arithmetic)
    chunked = PairObjective(
        found.model, LossConfig(loss_chunk=5, label_smoothing=0.1), arithmetic=found.arithmetic
    )
    found.model.train()
    whole = evaluate_pairs(plain, dataset, batch_tokens=100)
    assert found.model.training
    found.model.eval()
    parts = evaluate_pairs(chunked, dataset, batch_tokens=1)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert (parts.token_accuracy, parts.tokens) == (whole.token_accuracy, whole.tokens)

    kept = []

    class Share(Ranks):
        def sum(self, sums):
            kept.append(sums.clone())
            return sums

    for rank in range(3):
        evaluate_pairs(plain, dataset, batch_tokens=100, ranks=Share(rank=rank, size=3))
    nats, tokens, right, exact, rows = torch.stack(kept).sum(dim=0).tolist()
    assert rows == len(dataset)
    assert nats / tokens == pytest.approx(whole.loss, rel=1e-6)
    assert (right / tokens, exact / rows) == (whole.token_accuracy, whole.sequence_accuracy)


def test_beams_are_the_generators(found):
    sources = [pairs_named(found, []).texts(number)[0] for number in range(5)]
    generator = Generator(found.model, found.tokenizer, compile="off")
    expected = [
        generator.beam_search(text, beams=3, max_new_tokens=12, length_penalty=0.5)[0].text
        for text in sources
    ]
    assert write_pairs(found, sources, batch_size=2, beams=3, length_penalty=0.5) == expected


def test_two_models_are_compared_pair_by_pair(found):
    comparison = compare_models(found.folder, _worse(found), device="cpu", precision="fp32")
    (result,) = comparison.measures.values()
    scores = score_pairs(found, pairs_named(found, []), batch_size=64)
    assert result.a == pytest.approx(scores.loss)
    assert result.pairs == scores.pairs
    assert result.low > 0
    assert "95% sure that it is" in comparison.verdict
    assert f"on {scores.pairs} pairs" in comparison.verdict


def test_what_lies_in_no_run_needs_pairs(found, tmp_path):
    alone = gptlab.save(tmp_path / "alone", found.model, found.tokenizer)
    other = open_any(alone, device="cpu", precision="fp32")
    with pytest.raises(ConfigError, match="lies in no run"):
        pairs_named(other, [])
    assert len(pairs_named(other, ["pairs.tsv"])) > len(pairs_named(found, []))


def _worse(found):
    """The same model with other weights, in another run."""
    folder = found.folder.parent.with_name("worse")
    if not folder.exists():
        model = gptlab.load(found.folder)[0]
        with torch.no_grad():
            model.decoder.norm.weight.mul_(0.5)
        folder.mkdir()
        (folder / "config.json").write_bytes((found.folder.parent / "config.json").read_bytes())
        gptlab.save(folder / "last-1", model, found.tokenizer, step=1)
    return folder / "last-1"


@pytest.mark.parametrize(("written", "expected"), [([], []), (["a"], ["a", "b"])])
def test_scores_take_as_many_of_both_and_at_least_one(written, expected):
    with pytest.raises(DataError, match=rf"{len(written)} written texts can't be compared with"):
        score_texts(written, expected)
