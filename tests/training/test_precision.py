import pytest
import torch

from gptlab.errors import BackendError
from gptlab.training import precision
from gptlab.training.precision import Arithmetic, choose_arithmetic, choose_device


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "tpu:0", "cpu:x", "meta"])
def test_a_device_that_is_not_here_is_one_line(name):
    with pytest.raises(BackendError, match="there is no such device here; write --device") as error:
        choose_device(name)
    assert f"device is '{name}'" in str(error.value)
    assert "\n" not in str(error.value)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_bf16_where_it_is_native(monkeypatch, native, expected):
    monkeypatch.setattr(precision, "_has_bf16", lambda _device: native)
    assert choose_arithmetic("cpu", "auto").precision == expected


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_named_precision_is_the_type_of_matrix_products(name, dtype):
    arithmetic = choose_arithmetic("cpu", name)
    with arithmetic.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert str(arithmetic) == f"CPU, {name}"


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16")]
)
def test_a_gpu_without_bf16_refuses_it_and_takes_fp16_if_it_can(monkeypatch, capability, expected):
    monkeypatch.setattr(precision, "choose_device", lambda _name: torch.device("cuda"))
    monkeypatch.setattr(precision, "_has_bf16", lambda _device: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    with pytest.raises(BackendError, match="lacks it; write --precision fp16"):
        choose_arithmetic("cuda", "bf16")
    assert choose_arithmetic("cuda", "auto").precision == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_model_in_16_bits_computes_in_its_own(precision):
    arithmetic = Arithmetic(torch.device("cpu"), precision)
    assert arithmetic.of(torch.float32) == arithmetic.of(torch.float64) == arithmetic
    for dtype in (torch.bfloat16, torch.float16):
        assert arithmetic.of(dtype).dtype == dtype
        assert arithmetic.of(dtype).device == arithmetic.device
