"""How many floating-point operations a second a device does at best."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

# Dense, without sparsity, of matrix products that add up in float32: NVIDIA's data sheets.
_BFLOAT16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
}
_SIZE, _TRIES = 1024, 10  # the best of many: others may use the machine too


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Of one device.

    Attributes:
        flops: operations a second.
        source: where the number is from, for people.
    """

    flops: float
    source: str


def peak_of(device: torch.device, dtype: torch.dtype) -> Peak:
    """Known of GPUs computing in bfloat16; else measured, by a product of 1024 x 1024 matrices."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, flops in _BFLOAT16.items():
            if part in name:
                return Peak(flops=flops, source=f"{name}, bfloat16, data sheet")
    kind = str(dtype).removeprefix("torch.")
    return Peak(
        flops=_measure(device, dtype), source=f"{kind} product measured on this {device.type}"
    )


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.ones(_SIZE, _SIZE, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_TRIES + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2.0 * _SIZE**3 / best
