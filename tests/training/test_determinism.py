import os

import pytest
import torch

from gptlab.errors import BackendError
from gptlab.training.determinism import deterministic

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def switches():
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": torch.backends.cudnn.deterministic,
        "benchmark": torch.backends.cudnn.benchmark,
        "attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "cublas": os.environ.get(CUBLAS),
    }


@pytest.mark.parametrize("warn_only", [False, True])
@pytest.mark.parametrize("former", [None, ":16:8"])
def test_a_gpu_gets_every_switch_and_all_are_put_back(monkeypatch, former, warn_only):
    monkeypatch.delenv(CUBLAS, raising=False)
    if former is not None:
        monkeypatch.setenv(CUBLAS, former)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(warn_only, warn_only=True)
    try:
        before = switches()
        with deterministic(True, GPU):
            assert switches() == {
                "algorithms": True,
                "warns": False,
                "cudnn": True,
                "benchmark": False,
                "attention": False,
                "cublas": former or ":4096:8",
            }
        assert switches() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_error_within_leaves_nothing_behind():
    before = switches()
    with pytest.raises(ZeroDivisionError), deterministic(True, GPU):
        _ = 1 / 0
    assert switches() == before


def test_nothing_changes_unless_asked():
    before = switches()
    with deterministic(False, GPU):
        assert switches() == before


def test_a_cpu_needs_only_torchs_own_switch(monkeypatch):
    monkeypatch.delenv(CUBLAS, raising=False)
    before = switches()
    with deterministic(True, CPU):
        assert switches() == {**before, "algorithms": True}
    assert switches() == before


def test_an_operation_without_such_a_kernel_is_refused():
    with deterministic(True, CPU), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_an_environment_that_asks_for_something_else_is_one_line(monkeypatch):
    monkeypatch.setenv(CUBLAS, ":0:0")
    with (
        pytest.raises(BackendError, match=r"is ':0:0', but --deterministic needs .*; unset CUBLAS"),
        deterministic(True, GPU),
    ):
        pass
    assert not torch.are_deterministic_algorithms_enabled()
