"""Which device computes, and in which arithmetic."""

from dataclasses import dataclass, replace

import torch

from gptlab.errors import BackendError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Arithmetic:
    """A device and the type of its matrix products; weights are float32, or of that type."""

    device: torch.device
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return _DTYPES[self.precision]

    def of(self, dtype: torch.dtype) -> "Arithmetic":
        """What a model with numbers of `dtype` computes in: in these, if they have 16 bits."""
        names = {dtype: name for name, dtype in _DTYPES.items()}
        return replace(self, precision=names[dtype]) if dtype.itemsize == 2 else self

    def autocast(self) -> torch.autocast:
        """Context for a forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.precision != "fp32")

    def __str__(self) -> str:
        name = "CPU"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return f"{name}, {self.precision}"


def choose_arithmetic(device: str, precision: str) -> Arithmetic:
    """The device and precision that the settings name, or the best of this machine for 'auto'.

    Raises:
        BackendError: There is no such device here, or it lacks the precision.
    """
    chosen = choose_device(device)
    native = _has_bf16(chosen)
    if precision == "bf16" and chosen.type == "cuda" and not native:
        raise BackendError("precision is 'bf16', but this GPU lacks it; write --precision fp16")
    if precision == "auto":
        precision = "bf16" if native else "fp16" if _has_fp16(chosen) else "fp32"
    return Arithmetic(chosen, precision)


def choose_device(name: str) -> torch.device:
    """The device called `name`, or a GPU where there is one for 'auto'.

    Raises:
        BackendError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise BackendError(
            f"device is '{name}', but there is no such device here; write --device cpu"
        ) from None
    return device


def _has_fp16(device: torch.device) -> bool:
    # Before compute capability 7.0 a GPU has no units for products in 16 bits.
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions, bf16 on a CPU is emulated and slower than float32.
    return device.type == "cpu" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
