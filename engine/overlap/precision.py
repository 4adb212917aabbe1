"""Types of numbers: what products are of, and what they are."""

from __future__ import annotations

import torch

FP8 = torch.float8_e4m3fn


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of products of operands of ``dtype``: bf16 where that is fp8."""
    return torch.bfloat16 if dtype == FP8 else dtype
