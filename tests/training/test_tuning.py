import json
import os
import subprocess
import sys

import pytest
import torch

from gptlab.config import ModelConfig
from gptlab.training import machine, tuning
from gptlab.training.machine import measured, recalled, remember
from gptlab.training.precision import Arithmetic
from gptlab.training.tuning import choose_attention, product_rate

CPU = Arithmetic(torch.device("cpu"), "bf16")
SHAPE = ModelConfig(seq_len=8, embed_dim=8, num_layers=1, n_heads=2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gptlab" / "machine.json"


def test_what_was_measured_is_kept(cache):
    assert measured("a", lambda: 3) == 3
    assert measured("a", lambda: 4) == 3
    assert measured("b", lambda: "x") == recalled("b") == "x"
    remember("a", 5)
    assert recalled("a") == 5
    assert list(cache.parent.iterdir()) == [cache]


def test_another_processor_or_number_of_threads_is_measured_anew(cache, monkeypatch):
    assert measured("a", lambda: 1) == 1
    monkeypatch.setattr(machine, "processor", lambda: "another one")
    assert measured("a", lambda: 2) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert measured("a", lambda: 3) == 3
    assert len(json.loads(cache.read_text())) == 3


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_damaged_file_is_measured_again(cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert measured("a", lambda: 7) == 7
    assert recalled("a") == 7


def test_where_nothing_can_be_kept_it_is_measured_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    results = iter((1, 2))
    assert [measured("a", lambda: next(results)) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"sdpa": 1.0, "blocked": 2.0}, "sdpa"),
        ({"sdpa": 2.0, "blocked": 1.0}, "blocked"),
        # Too close to prefer another one to the usual.
        ({"sdpa": 1.0, "blocked": 1.05}, "blocked"),
    ],
)
def test_the_faster_attention_is_chosen_once(cache, monkeypatch, seconds, expected):
    monkeypatch.setattr(tuning, "_attention_step", lambda name, *_: name)
    monkeypatch.setattr(tuning, "_seconds", seconds.__getitem__)
    assert choose_attention(SHAPE, CPU) == expected
    monkeypatch.setattr(tuning, "_seconds", None)
    assert choose_attention(SHAPE, CPU) == expected


def test_attention_that_is_named_or_on_a_gpu_is_not_tried(monkeypatch):
    monkeypatch.setattr(tuning, "_seconds", None)
    assert choose_attention(SHAPE.replace(attention="reference"), CPU) == "reference"
    assert choose_attention(SHAPE, Arithmetic(torch.device("cuda"), "bf16")) == "auto"


def test_backends_are_really_tried(cache):
    assert choose_attention(SHAPE, CPU) in ("sdpa", "blocked")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_rate_of_products(cache, precision):
    assert product_rate(Arithmetic(torch.device("cpu"), precision)) > 1e7


FAULTS = """
import os, resource, torch
from gptlab.training.allocation import keep_freed_memory
assert "THP_MEM_ALLOC_ENABLE" not in os.environ
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(max(faults() for _ in range(3)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults as Linux counts them")
def test_memory_that_was_freed_is_not_fetched_again():
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, env=environment, check=True
    )
    # The 64 MiB are 16,384 small pages.
    assert int(run.stdout) < 1000
