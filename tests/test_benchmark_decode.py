import importlib
from pathlib import Path

import pytest

import gptlab

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHAPE = {"vocab_size": 40, "seq_len": 16, "embed_dim": 8, "num_layers": 2, "n_heads": 2}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def figures(load, **changes):
    """What two calls of 4 tokens come to; a token reads 3 bytes, and memory gives 4 a second."""
    decode, parts = load("decode"), load("decode_parts")
    part = parts.Part("small", "decode", (), (), shape=SHAPE, new_tokens=4, **changes)
    return decode.figures(
        part,
        [parts.BANDWIDTH[0], parts.Contender("a", "gptlab"), parts.Contender("b", "gptlab")],
        {"sum": [2.0, 1.0], "a": [4.0, 8.0]},
        {"sum": {"bytes_read": 4}, "a": {"bytes_read": 3, "first_call_seconds": 9.0}},
        {"b": "no | such thing"},
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_all_weights_but_the_tables_it_takes_a_row_of(load, tied):
    task = load("decode_task")
    config = gptlab.ModelConfig(**SHAPE, **{**task.GPT2, "tie_embeddings": tied})
    model = gptlab.GPT(config, seed=0)
    rows = SHAPE["seq_len"] + (0 if tied else SHAPE["vocab_size"])
    numbers = model.num_parameters() - rows * SHAPE["embed_dim"]
    assert task.weight_bytes(model, SHAPE["vocab_size"]) == 4 * numbers
    assert task.weight_bytes(model.bfloat16(), SHAPE["vocab_size"]) == 2 * numbers


def test_the_share_is_of_the_fastest_pass_through_memory(load):
    own, failed = figures(load)["contenders"]
    assert own["tokens_per_second"] == {"median": 0.75, "min": 0.5, "max": 1.0}
    assert own["share_of_bandwidth"] == pytest.approx(3 / 4 / 1.5)
    assert own["beyond_reading_seconds"] == pytest.approx(1.5 - 3 / 4)
    assert failed == {"name": "b", "failed": "no | such thing"}


def test_a_batch_counts_the_tokens_of_all_rows(load):
    assert figures(load, batch=8)["contenders"][0]["tokens_per_second"]["max"] == 8.0


def test_tables_show_failures_and_what_a_kind_asks_for(load):
    report = load("report")
    part = figures(load)
    text = str(report.decode_table(part))
    assert "1 row, 16 tokens and 4 new; sum 0.0 GB/s" in text
    assert "| a | 0.8 (0.5–1.0) | 50.0% | 9.0 |\n| b | failed: no / such thing |  |  |" in text
    text = str(report.decode_table(part | {"kind": "latency"}))
    assert "| a | 1,500,000 (1,000,000–2,000,000) | 750,000 | 9.0 |" in text
    text = str(report.decode_table(part | {"kind": "prefill"}))
    assert "| a | 6,000.0 (4,000.0–8,000.0) | 0.8 (0.5–1.0) | 9.0 |" in text
    first = [{"name": "c", "seconds": {"median": 2.0, "min": 1.0, "max": 3.0}}]
    tables = report.decode_tables({"parts": [part], "first_token": first})
    assert "| c | 2.00 (1.00–3.00) |" in str(tables[1])


def test_parts_measured_anew_replace_their_own_former_figures(load):
    decode, parts = load("decode"), load("decode_parts")
    one, two = (parts.PARTS[name].title for name in ("batch1", "small"))
    old = {"parts": [{"title": two, "n": 1}, {"title": one, "n": 1}], "first_token": []}
    merged = decode.merged(old, {"parts": [{"title": two, "n": 2}]})
    assert merged == {
        "parts": [{"title": one, "n": 1}, {"title": two, "n": 2}],
        "first_token": [],
    }
