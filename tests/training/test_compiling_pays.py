"""When `--compile auto` compiles on a CPU, and that a run goes on as it began."""

import json
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.training import compiling
from gptlab.training.beginning import choose_computation
from gptlab.training.compiling import forward_and_cost
from gptlab.training.cost import Cost, probe, quick_probe
from gptlab.training.machine import remember
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

        def fake_compile(module, **_):
            return fake(module)

        monkeypatch.setattr(compiling, "probe", cost)
        monkeypatch.setattr(compiling, "quick_probe", lambda _session: Cost(plain, 0))
        monkeypatch.setattr(torch, "compile", fake_compile)
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


def test_a_plain_pass_that_was_asked_for_is_not_tried_in_full(tiny, monkeypatch):
    monkeypatch.setattr(compiling, "probe", None)
    monkeypatch.setattr(compiling, "quick_probe", lambda _session: Cost(2.0, 0))
    session = open_session(tiny(compile="off"))
    assert forward_and_cost(session) == (session.module, Cost(2.0, 0))


@pytest.mark.parametrize(("before", "is_compiled"), [("on", True), ("off", False)])
def test_a_run_goes_on_as_it_began(session, speeds, before, is_compiled):
    speeds(100.0 if before == "off" else 0.1, 0.05)
    forward, _ = forward_and_cost(session, before=before)
    assert (forward is not session.module) == is_compiled


def test_asked_for_the_same_bits_nothing_is_left_to_the_clock(tiny, speeds, monkeypatch):
    compiled = speeds(1000.0, 1.0)
    session = open_session(tiny(max_steps=100, batch_size=4, deterministic=True))
    monkeypatch.setattr("gptlab.training.beginning.choose_attention", None)
    choose_computation(session)
    assert compiled == []
    assert session.model.attention == "auto"


def test_what_was_named_is_not_taken_for_what_was_chosen(tiny):
    session = open_session(tiny(attention="reference", compile="off"))
    choose_computation(session)
    assert session.state.computation == {"device": "cpu"}
    assert session.model.attention == "reference"


@pytest.mark.parametrize("gain", [{}, [], {"speedup": 0, "seconds": 1}, {"speedup": "x"}])
def test_a_gain_that_is_none_counts_for_nothing(session, speeds, gain):
    speeds(0.1, 0.05)
    remember(compiling._name(session), gain)
    assert forward_and_cost(session)[0] is session.module


def test_a_resumed_run_does_not_look_at_what_was_measured_since(tiny, monkeypatch):
    """What this machine remembers turns round after the run was stopped."""
    settings = {"max_steps": 4, "batch_size": 4, "save_every": 2}
    straight = Path(gptlab.train(tiny(**settings, experiment_name="straight")).path)
    state = json.loads((straight / "last-4" / "trainer" / "state.json").read_text())["state"]
    other = {"sdpa": "blocked", "blocked": "sdpa"}[state["computation"]["attention"]]
    monkeypatch.setattr("gptlab.training.beginning.choose_attention", lambda *_, **__: other)
    resumed = gptlab.train(
        gptlab.TrainConfig(resume=str(straight / "straight_s2"), experiment_name="b", quiet=True)
    ).path
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        expected = (straight / "last-4" / name).read_bytes()
        assert (Path(resumed) / "last-4" / name).read_bytes() == expected


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
    assert session.model.attention == attention
    session.state.computation = {"device": "elsewhere", "attention": "flash", "compile": "off"}
    choose_computation(session)
    assert session.model.attention != "flash"


def test_a_quick_probe_estimates_the_whole(session, monkeypatch):
    monkeypatch.setattr("gptlab.training.cost._QUICK_SECONDS", 0.0)
    estimate, whole = quick_probe(session), probe(session, session.module)
    assert estimate.seconds > 0
    assert estimate.peak_bytes >= whole.peak_bytes // 2
    assert all(parameter.grad is None for parameter in session.model.parameters())
