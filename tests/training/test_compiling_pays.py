"""When `--compile auto` compiles on a CPU, and that a run goes on as it began."""

import json
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.training import compiling
from gptlab.training.beginning import choose_computation
from gptlab.training.compiling import forward_and_cost
from gptlab.training.plan import Cost, probe, quick_probe
from gptlab.training.session import open_session


@pytest.fixture
def session(tiny):
    return open_session(tiny(max_steps=100, batch_size=4))


@pytest.fixture
def speeds(monkeypatch, tmp_path):
    """Makes the plain and the compiled pass take these seconds; what was compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled = []

    def set_speeds(plain: float, fast: float) -> list[object]:
        def cost(session, forward, **_):
            return Cost(plain if forward is session.module else fast, 0)

        def fake(module):
            compiled.append(module)
            return lambda batch: module(batch)

        monkeypatch.setattr(compiling, "probe", cost)
        monkeypatch.setattr(compiling, "quick_probe", lambda _session: Cost(plain, 0))
        monkeypatch.setattr(torch, "compile", fake)
        return compiled

    return set_speeds


def test_a_short_run_is_not_compiled(session, speeds):
    compiled = speeds(0.1, 0.05)
    forward, cost = forward_and_cost(session)
    assert (forward, cost.seconds, compiled) == (session.module, 0.1, [])


def test_a_long_run_is_compiled_and_what_it_brought_is_kept(session, speeds):
    compiled = speeds(100.0, 50.0)
    forward, cost = forward_and_cost(session)
    assert forward is not session.module
    assert (cost.seconds, compiled) == (50.0, [session.module])
    # By now it is known to take no time here and to bring much: a short run is compiled too.
    speeds(0.1, 0.05)
    assert forward_and_cost(session)[0] is not session.module


def test_where_it_brings_nothing_the_run_goes_on_without(tiny, speeds, capsys):
    session = open_session(tiny(max_steps=100, batch_size=4, quiet=False))
    speeds(100.0, 120.0)
    forward, cost = forward_and_cost(session)
    assert (forward, cost.seconds) == (session.module, 100.0)
    assert "torch.compile makes nothing faster here" in capsys.readouterr().out
    speeds(1000.0, 1.0)
    # It is known by now.
    assert forward_and_cost(session)[0] is session.module


@pytest.mark.parametrize(("before", "is_compiled"), [("on", True), ("off", False)])
def test_a_run_goes_on_as_it_began(session, speeds, before, is_compiled):
    speeds(100.0 if before == "off" else 0.1, 0.05)
    forward, _ = forward_and_cost(session, before=before)
    assert (forward is not session.module) == is_compiled


def test_the_state_says_how_a_run_computes(tiny):
    path = Path(gptlab.train(tiny(max_steps=2, batch_size=4)).path)
    saved = json.loads((path / "last-2" / "trainer" / "state.json").read_text())
    computation = saved["state"]["computation"]
    assert computation["device"] == "cpu"
    assert computation["compile"] == "off"
    assert computation["attention"] in ("sdpa", "blocked")


@pytest.mark.parametrize("attention", ["sdpa", "blocked"])
def test_attention_is_as_the_state_says(session, attention):
    session.state.computation = {"device": "cpu", "attention": attention, "compile": "off"}
    choose_computation(session)
    assert session.model.blocks[0].attention.backend == attention
    session.state.computation = {"device": "elsewhere", "attention": "flash", "compile": "off"}
    choose_computation(session)
    assert session.model.blocks[0].attention.backend != "flash"


def test_a_quick_probe_estimates_the_whole(session, monkeypatch):
    monkeypatch.setattr("gptlab.training.plan._QUICK_SECONDS", 0.0)
    estimate, whole = quick_probe(session), probe(session, session.module)
    assert estimate.seconds > 0
    assert estimate.peak_bytes >= whole.peak_bytes // 2
    assert all(parameter.grad is None for parameter in session.model.parameters())
