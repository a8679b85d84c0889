import pytest
import torch

from gptlab.errors import BackendError
from gptlab.training.compiling import choose_forward
from gptlab.training.ranks import Ranks

MODULE = torch.nn.Identity()


def compiled(_tokens: object) -> object:
    return None


def compiling(_module: object, **_: object) -> object:
    return compiled


def raising(_subject: object, **_: object) -> object:
    raise RuntimeError("no compiler here\nlong explanation")


def choose(mode, *, try_out=lambda _forward: None, ranks=Ranks()):  # noqa: B008
    lines: list[str] = []
    chosen = choose_forward(MODULE, mode, try_out=try_out, say=lines.append, ranks=ranks)
    return chosen, lines


class Job(Ranks):
    """A process of a job in which another one fails."""

    def any(self, _flag):
        return True


def test_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", raising)
    assert choose("off") == (MODULE, [])


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_compiled(monkeypatch, mode):
    monkeypatch.setattr(torch, "compile", lambda _model, **_: compiled)
    assert choose(mode) == (compiled, [])


@pytest.mark.parametrize("place", ["compile", "first step"])
def test_auto_falls_back_with_one_line(monkeypatch, place):
    monkeypatch.setattr(
        torch, "compile", raising if place == "compile" else lambda *_, **__: compiled
    )
    forward, lines = choose("auto", try_out=raising)
    assert forward is MODULE
    assert len(lines) == 1
    assert lines[0].endswith("no compiler here")


def test_where_it_fails_in_one_process_all_fall_back(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _model, **_: compiled)
    forward, lines = choose("auto", ranks=Job(size=2))
    assert forward is MODULE
    assert lines == [
        "torch.compile fails here, so the run goes on without it: it does in another process"
    ]


@pytest.mark.parametrize("place", ["compile", "first step"])
def test_on_raises(monkeypatch, place):
    monkeypatch.setattr(
        torch, "compile", raising if place == "compile" else lambda *_, **__: compiled
    )
    with pytest.raises(BackendError, match="no compiler here; write --compile off") as error:
        choose("on", try_out=raising)
    assert "\n" not in str(error.value)


def test_an_error_without_words_is_named_by_its_kind(monkeypatch):
    def silent(_model: object, **_: object) -> object:
        raise NotImplementedError

    monkeypatch.setattr(torch, "compile", silent)
    assert choose("auto")[1][0].endswith("NotImplementedError")
