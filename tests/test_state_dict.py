"""A bare `.pth` file is read as tensors, and never run."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from gptlab.checkpoint import load_state_dict
from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError
from gptlab.model import GPT

CONFIG = ModelConfig(vocab_size=262, seq_len=8, embed_dim=8, num_layers=1, n_heads=2)
TOKENS = torch.tensor([[1, 5, 250, 3]])


def make(**changes: object) -> GPT:
    return GPT(CONFIG.replace(**changes), seed=0).eval()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
def test_a_hostile_pickle_is_not_run(tmp_path, writer):
    with (tmp_path / "m.pth").open("wb") as stream:
        writer(Hostile(tmp_path / "owned"), stream)
    with pytest.raises(CheckpointError, match="holds more than tensors") as error:
        load_state_dict(tmp_path / "m.pth", CONFIG)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()


def test_a_bare_state_dict_loads(tmp_path):
    model = make(tie_embeddings=False)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    loaded = load_state_dict(tmp_path / "m.pth", model.config)
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert not loaded.training


def without_norm(state: dict[str, torch.Tensor]) -> object:
    return {name: tensor for name, tensor in state.items() if name != "norm.weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_norm, "lacks tensor 'norm.weight'; check"),
        (lambda state: state | {"odd": torch.ones(1)}, "has an unknown tensor 'odd'; check"),
        (
            lambda state: state | {"norm.weight": torch.ones(3)},
            r"'norm.weight' is \(3,\), but the settings make it \(8,\); check",
        ),
        (lambda state: [*state.values()], "holds no state dict; save"),
        (lambda state: {"model": state}, "holds no state dict; save"),
        (lambda state: {1: torch.ones(1), **state}, "holds no state dict; save"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_one_line(tmp_path, change, message):
    torch.save(change(dict(make().state_dict())), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        load_state_dict(tmp_path / "m.pth", CONFIG)
    assert "\n" not in str(error.value)


def test_a_missing_or_damaged_state_dict_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="can't be read: No such file"):
        load_state_dict(tmp_path / "m.pth", CONFIG)
    torch.save(make().state_dict(), tmp_path / "m.pth")
    (tmp_path / "m.pth").write_bytes((tmp_path / "m.pth").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load_state_dict(tmp_path / "m.pth", CONFIG)
