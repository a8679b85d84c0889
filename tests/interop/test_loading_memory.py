"""Loading takes one copy of the weights: the most memory it needs, in sizes of the file."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gptlab.checkpoint import load_model, save
from gptlab.checkpoint.filling import fill, without_memory
from gptlab.config import ModelConfig
from gptlab.interop import read_huggingface, write_huggingface
from gptlab.model import GPT

CONFIG = ModelConfig(
    vocab_size=50_257,
    seq_len=1024,
    embed_dim=768,
    num_layers=4,
    n_heads=12,
    positions="learned",
    activation="gelu_tanh",
    bias=True,
    qk_norm=False,
    tie_embeddings=True,
)
LOAD = """
import re, sys
from pathlib import Path
import torch
from gptlab.checkpoint import load_model
from gptlab.interop import read_huggingface

def memory(kind):
    return 1024 * int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
torch.nn.Linear(8, 8)(torch.ones(8))
kind, path = sys.argv[1:]
before = memory("VmRSS")
model = {"ours": load_model, "theirs": read_huggingface}[kind](Path(path))
print((memory("VmHWM") - before) / (Path(path) / "model.safetensors").stat().st_size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say")
@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_peak(tmp_path, kind):
    like = without_memory(CONFIG)
    shapes = {name: tensor.shape for name, tensor in like.state_dict().items()}
    model = fill(like, lambda name: torch.ones(shapes[name]), device="cpu")
    if kind == "ours":
        save(tmp_path / "m", model)
    else:
        write_huggingface(tmp_path / "m", model, None)
    command = [sys.executable, "-c", LOAD, kind, str(tmp_path / "m")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(run.stdout) < 1.2


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_the_file_may_be_overwritten_and_deleted_while_a_model_is_used(tmp_path, kind):
    small = CONFIG.replace(vocab_size=50, embed_dim=24, num_layers=1, n_heads=2, seq_len=8)
    ids = torch.tensor([[1, 2, 3]])
    made = GPT(small, seed=0)
    torch.nn.init.normal_(made.blocks[0].attention.qkv_proj.bias)
    if kind == "ours":
        save(tmp_path / "m", made)
        model = load_model(tmp_path / "m")
    else:
        write_huggingface(tmp_path / "m", made, None)
        model = read_huggingface(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    before = path.read_bytes()
    expected = model(ids)
    path.write_bytes(b"\0" * len(before))
    assert torch.equal(model(ids), expected)
    path.write_bytes(b"")
    assert torch.equal(model(ids), expected)
    path.unlink()
    assert torch.equal(model(ids), expected)
