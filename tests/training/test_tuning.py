import json
import subprocess
import sys

import pytest
import torch

from gptlab.config import ModelConfig
from gptlab.training import allocation, machine, tuning
from gptlab.training.allocation import give_freed_memory_back, keep_freed_memory
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
    assert choose_attention(SHAPE, CPU, rows=2) == expected
    monkeypatch.setattr(tuning, "_seconds", None)
    assert choose_attention(SHAPE, CPU, rows=2) == expected


def test_attention_that_is_named_or_on_a_gpu_is_not_tried(monkeypatch):
    monkeypatch.setattr(tuning, "_seconds", None)
    named = SHAPE.replace(attention="reference")
    assert choose_attention(named, CPU, rows=2) == "reference"
    assert choose_attention(SHAPE, Arithmetic(torch.device("cuda"), "bf16"), rows=2) == "auto"


def test_backends_are_really_tried(cache):
    assert choose_attention(SHAPE.replace(dropout=0.1), CPU, rows=2) in ("sdpa", "blocked")


def test_weights_that_would_crowd_the_memory_are_not_even_tried(cache, monkeypatch):
    monkeypatch.setattr(tuning, "_seconds", {"sdpa": 2.0, "blocked": 1.0}.__getitem__)
    monkeypatch.setattr(tuning, "_attention_step", lambda name, *_: name)
    long = SHAPE.replace(seq_len=2**14, n_heads=4, num_layers=12)
    for free, expected in ((2**40, "blocked"), (2**30, "sdpa")):
        monkeypatch.setattr(tuning, "available_memory", lambda _device, free=free: free)
        assert choose_attention(long, CPU, rows=8) == expected


@pytest.mark.parametrize("value", ["flash", 3, None])
def test_an_attention_that_is_none_is_measured_again(cache, value):
    assert choose_attention(SHAPE, CPU, rows=2) in ("sdpa", "blocked")
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: value}))
    assert choose_attention(SHAPE, CPU, rows=2) in ("sdpa", "blocked")


@pytest.mark.parametrize("value", ["x", 0, -1, [], None])
def test_a_rate_that_is_none_is_measured_again(cache, value):
    product_rate(CPU)
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: value}))
    assert product_rate(CPU) > 1e7


def test_a_call_that_takes_long_is_the_only_one(monkeypatch):
    monkeypatch.setattr(tuning, "_LONG_SECONDS", -1.0)
    calls = []
    assert len(tuning._times(lambda: calls.append(1))) == len(calls) == 1


def test_without_a_home_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    results = iter((1, 2))
    assert [measured("a", lambda: next(results)) for _ in range(2)] == [1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_rate_of_products(cache, precision):
    assert product_rate(Arithmetic(torch.device("cpu"), precision)) > 1e7


FAULTS = """
import os, resource, torch
from gptlab.training.allocation import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(), faults()
print(max(faults() for _ in range(3)))
"""


def test_an_older_glibc_takes_a_smaller_threshold(monkeypatch):
    calls = []

    def mallopt(name, value):
        calls.append((name, value))
        return int(value <= 2**25)

    monkeypatch.setattr(allocation, "_function", lambda _name: mallopt)
    keep_freed_memory()
    assert calls == [(-3, 2**31 - 1), (-3, 2**25), (-1, -1)]
    monkeypatch.setattr(allocation, "_function", lambda _name: None)
    keep_freed_memory()
    give_freed_memory_back()


@pytest.mark.skipif(sys.platform != "linux", reason="page faults as Linux counts them")
def test_memory_that_was_freed_is_not_fetched_again():
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    # The 64 MiB are 16,384 small pages.
    assert int(run.stdout) < 1000
