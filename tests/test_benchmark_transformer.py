import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHAPE = {"vocab_size": 40, "embed_dim": 16, "num_layers": 2, "n_heads": 2}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def translators(load):
    return load("translators")


def work(translators, **changes):
    given = {"shape": SHAPE, "batch_size": 3, "length": 7, "new_tokens": 6, "precision": "fp32"}
    flags = {"is_compiled": False, "has_own_parts": False, "device": torch.device("cpu")}
    return translators.Work(**{**given, **flags, **changes})


def test_both_begin_as_the_same_model(translators):
    some = work(translators)
    batch = translators.random_batch(some)
    own, peer = translators.own_model(some).eval(), translators.peer_model(some).eval()
    ours, theirs = own(batch.sources, batch.inputs), peer(batch.sources, batch.inputs)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4 * ours.abs().max().item())
    # What is filled up is no part of it.
    sources = torch.nn.functional.pad(batch.sources, (0, 2))
    torch.testing.assert_close(peer(sources, batch.inputs), theirs, rtol=0, atol=1e-5)


def test_both_generate_the_same_tokens_and_count_them(translators):
    some = work(translators)
    ours, theirs = (library.generation(some) for library in (translators.Gptlab, translators.Peer))
    assert ours.check() == theirs.check()
    assert ours.work() == theirs.work() == 3 * 6


def test_filling_is_no_token(translators):
    ids = torch.tensor([[5, 6, 0], [7, 0, 0]])
    assert translators.Batch(ids, ids, ids).tokens == 6


def test_the_peer_reads_each_pair_once_an_epoch_filled_up(load):
    peer = load("peer_transformer")
    pairs = [(torch.full((n,), n), torch.full((n,), n), torch.tensor([n, n])) for n in (1, 2, 3, 4)]
    batches = peer.peer_batches(pairs, batch_size=2)
    epoch = [next(batches), next(batches)]
    assert sorted(int(row[0]) for sources, _, _ in epoch for row in sources) == [1, 2, 3, 4]
    for sources, inputs, targets in epoch:
        assert sources.shape == inputs.shape == (2, int(sources.max()))
        assert targets.shape == (2, 2)
        assert (sources == peer.PAD).sum() == int(sources.max() - sources[:, 0].min())


def speeds(*names, ids=None):
    rows = [
        {"name": name, "tokens_per_second": {"median": 10.0 * n, "min": n, "max": 20 * n}}
        for n, name in enumerate(names, start=1)
    ]
    if ids is None:
        return rows
    return [row | {"ids": text} for row, text in zip(rows, ids, strict=True)]


def test_rows_are_compared_with_the_peer_of_their_precision(load):
    transformer = load("transformer")
    peer = transformer.PEER
    names = [f"{peer}, fp32", f"{peer}, bf16", "gptlab, compiled, bf16", "gptlab, fp32"]
    found = transformer.compared(speeds(*names))
    assert [row["times_peer"] for row in found] == [1, 1, 1.5, 4]
    assert "times_peer" not in transformer.compared(speeds("gptlab, fp32"))[0]
    texts = [[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 0, 6]]]
    own = transformer.compared(speeds(f"{peer}, fp32", "gptlab, fp32", ids=texts))[1]
    assert own["same_tokens"] == pytest.approx(4 / 6, abs=1e-4)
    assert "ids" not in own


def test_fresh_parts_take_the_place_of_old_ones(load):
    transformer = load("transformer")
    titles = [transformer.PARTS[name].title for name in ("batch1", "small")]
    old = [{"title": title, "is": "old"} for title in titles]
    merged = transformer.merged(old, [{"title": titles[0], "is": "fresh"}])
    assert [(part["title"], part["is"]) for part in merged] == [
        (titles[1], "old"),
        (titles[0], "fresh"),
    ]


def test_the_table_shows_the_ratio_and_that_both_do_the_same(load):
    tables = load("transformer_tables")
    part = {"title": "T", "kind": "training", "shape": SHAPE, "batch_size": 3, "length": 7}
    row = {**speeds("gptlab, fp32")[0], "times_peer": 1.456, "first_seconds": 0.25}
    loss = {"loss_before": 3.68888, "loss_after_steps": 3.5}
    text = str(tables.transformer_table({**part, "contenders": [row | loss]}))
    assert "T: 2 + 2 layers, width 16, 2 heads, vocabulary 40, 3 rows of 7 + 7 tokens:" in text
    assert "| gptlab, fp32 | 10 (1–20) | 1.46 | 0.2 | 3.6889 | 3.5000 |" in text
    part |= {"kind": "generation", "new_tokens": 6, "contenders": [row | {"same_tokens": 0.5}]}
    assert "| gptlab, fp32 | 10 (1–20) | 1.46 | 0.2 | 50.0% |" in str(
        tables.transformer_table(part)
    )
