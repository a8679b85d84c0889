import pytest
import torch

from gptlab.training import peak, tuning
from gptlab.training.peak import peak_flops
from gptlab.training.precision import Arithmetic


def of(monkeypatch, name: str, precision: str = "bf16") -> float | None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    return peak_flops(Arithmetic(torch.device("cuda"), precision))


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA B200", 2250),
    ],
)
def test_gpus_by_their_names(monkeypatch, name, tera):
    assert of(monkeypatch, name) == of(monkeypatch, name, "fp16") == tera * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA L400",
        "NVIDIA H100",
        "Unheard Of 9000",
        "",
    ],
)
def test_what_is_not_in_the_table_is_not_guessed(monkeypatch, name):
    assert of(monkeypatch, name) is None


@pytest.mark.parametrize("name", ["Tesla T4", "Tesla V100-SXM2-16GB", "Tesla V100-PCIE-32GB"])
def test_older_gpus_lack_bf16(monkeypatch, name):
    assert of(monkeypatch, name) is None
    assert of(monkeypatch, name, "fp16") > of(monkeypatch, name, "fp32") > 1e12


def test_processes_that_share_a_cpu_have_none():
    assert peak_flops(Arithmetic(torch.device("cpu"), "fp32"), devices=2) is None


def test_a_cpu_is_what_it_was_at_its_best(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu = Arithmetic(torch.device("cpu"), "fp32")
    rates = iter([1e10, 4e10, 2e10])
    monkeypatch.setattr(tuning, "_rate_now", lambda _dtype: next(rates))
    assert [peak_flops(cpu) for _ in range(3)] == [1e10, 4e10, 4e10]


def test_tensor_cores_are_the_faster_ones_in_each_row():
    for _, bf16, fp16, fp32 in peak._RATES:
        assert bf16 in (None, fp16)
        assert fp16 > fp32
