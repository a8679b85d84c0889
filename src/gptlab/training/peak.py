"""How many operations a second a device can do at best, for the share of it that a run uses.

A CPU's products are measured. Of GPUs these are dense rates as published, in 10^12 a second: of the
tensor cores with sums in float32, and for fp32 of the other cores, which PyTorch takes as long as
TF32 is off. Sources:
    Volta, Turing  https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf
                   https://www.nvidia.com/en-us/data-center/tesla-t4/
    Ampere         https://www.nvidia.com/en-us/data-center/a100/ and its neighbours a10, a30, a40
                   https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf
    Ada            https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf
                   https://www.nvidia.com/en-us/data-center/l4/ and its neighbours l40, l40s
    Hopper         https://www.nvidia.com/en-us/data-center/h100/ and h200; H800 computes the same
    Blackwell      https://www.nvidia.com/en-us/data-center/hgx/
                   https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf
"""

import re

import torch

from gptlab.training.precision import Arithmetic
from gptlab.training.tuning import product_rate

# The name as the driver gives it, and the rates in bf16, fp16 and fp32. A name fits as a whole or
# not at all: a laptop's GPU and a slice of one are slower than what their names begin with.
_RATES: tuple[tuple[str, float | None, float, float], ...] = (
    (r"V100-SXM2-\d+GB", None, 125.0, 15.7),
    (r"V100-PCIE-\d+GB", None, 112.0, 14.0),
    (r"T4", None, 65.0, 8.1),
    (r"A[18]00[- ](SXM4?|PCIE|80GB)[- ](\d+GB|PCIe)", 312.0, 312.0, 19.5),
    (r"A40", 149.7, 149.7, 37.4),
    (r"A30", 165.0, 165.0, 10.3),
    (r"A10", 125.0, 125.0, 31.2),
    (r"RTX A6000", 154.8, 154.8, 38.7),
    (r"GeForce RTX 3090 Ti", 80.0, 80.0, 40.0),
    (r"GeForce RTX 3090", 71.0, 71.0, 35.6),
    (r"L4", 121.0, 121.0, 30.3),
    (r"L40", 181.0, 181.0, 90.5),
    (r"L40S", 362.0, 362.0, 91.6),
    (r"GeForce RTX 4090", 165.2, 165.2, 82.6),
    (r"GeForce RTX 4080", 97.5, 97.5, 48.7),
    (r"H100 PCIe", 756.0, 756.0, 51.0),
    (r"H100 NVL|H200 NVL", 835.0, 835.0, 60.0),
    (r"H100 80GB HBM3|H800|H200|GH200 480GB", 989.0, 989.0, 67.0),
    (r"B200", 2250.0, 2250.0, 75.0),
    (r"GeForce RTX 5090", 209.5, 209.5, 104.8),
)


def peak_flops(arithmetic: Arithmetic, *, devices: int = 1) -> float | None:
    """Operations a second that devices can do at best: GPUs as published, a CPU as measured.

    None for GPUs not known here, and for processes that share a CPU.

    Args:
        arithmetic: One of the devices, and its precision.
        devices: How many of its kind compute together.
    """
    if arithmetic.device.type == "cpu":
        return product_rate(arithmetic) if devices == 1 else None
    if arithmetic.device.type != "cuda":
        return None
    rate = _peak_of(torch.cuda.get_device_name(arithmetic.device), arithmetic.precision)
    return None if rate is None else devices * rate


def _peak_of(name: str, precision: str) -> float | None:
    model = re.sub(r"^(NVIDIA |Tesla )+", "", name)
    for pattern, bf16, fp16, fp32 in _RATES:
        if re.fullmatch(pattern, model):
            rate = {"bf16": bf16, "fp16": fp16, "fp32": fp32}[precision]
            return None if rate is None else rate * 1e12
    return None
