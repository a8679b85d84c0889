from types import SimpleNamespace

import pytest
import torch

from gptlab.errors import BackendError
from gptlab.training.compiling import choose_forward

GPU_MODEL = SimpleNamespace(
    embedding=SimpleNamespace(weight=SimpleNamespace(device=torch.device("cuda")))
)
CPU_MODEL = SimpleNamespace(embedding=SimpleNamespace(weight=torch.ones(1)))


def compiled(_tokens: object) -> object:
    return None


def raising(_subject: object) -> object:
    raise RuntimeError("no compiler here\nlong explanation")


def choose(model, mode, *, try_out=lambda _forward: None):
    lines: list[str] = []
    return choose_forward(model, mode, try_out=try_out, say=lines.append), lines


@pytest.mark.parametrize(("model", "mode"), [(GPU_MODEL, "off"), (CPU_MODEL, "auto")])
def test_not_compiled(monkeypatch, model, mode):
    monkeypatch.setattr(torch, "compile", raising)
    assert choose(model, mode) == (model, [])


@pytest.mark.parametrize(("model", "mode"), [(GPU_MODEL, "auto"), (CPU_MODEL, "on")])
def test_compiled(monkeypatch, model, mode):
    monkeypatch.setattr(torch, "compile", lambda _model: compiled)
    assert choose(model, mode) == (compiled, [])


@pytest.mark.parametrize("place", ["compile", "first step"])
def test_auto_falls_back_with_one_line(monkeypatch, place):
    monkeypatch.setattr(torch, "compile", raising if place == "compile" else lambda _: compiled)
    forward, lines = choose(GPU_MODEL, "auto", try_out=raising)
    assert forward is GPU_MODEL
    assert len(lines) == 1
    assert lines[0].endswith("no compiler here")


@pytest.mark.parametrize("place", ["compile", "first step"])
def test_on_raises(monkeypatch, place):
    monkeypatch.setattr(torch, "compile", raising if place == "compile" else lambda _: compiled)
    with pytest.raises(BackendError, match="no compiler here; write --compile off") as error:
        choose(CPU_MODEL, "on", try_out=raising)
    assert "\n" not in str(error.value)


def test_an_error_without_words_is_named_by_its_kind(monkeypatch):
    def silent(_model: object) -> object:
        raise NotImplementedError

    monkeypatch.setattr(torch, "compile", silent)
    assert choose(GPU_MODEL, "auto")[1][0].endswith("NotImplementedError")
