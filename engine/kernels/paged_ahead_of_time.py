"""What the compiler makes of paged attention, for devices that are not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.kernels.ahead_of_time import Compiled, compile_kernel
from engine.kernels.paged_attention import STAGES, TILES, WARPS, attend_single

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZES = ("window", "group", "head_stride", "table_stride")
_TABLES = ("tables", "lengths")
_ALIGNED = ("q", "keys", "values", "tables", "out", "head_stride")


def compile_paged(arch: int, widths: tuple[int, ...] = (64, 128)) -> Iterator[Compiled]:
    """For heads of these widths and tensors of float32 and bfloat16."""
    for width in widths:
        for dtype in ("fp32", "bf16"):
            yield _compile(width, dtype, arch)


def _compile(width: int, dtype: str, arch: int) -> Compiled:
    itemsize = 4 if dtype == "fp32" else 2
    sizes = {"ROWS": 16, "BLOCK": 16, "TOKENS": TILES[itemsize]}
    constants = {"WIDTH": width, "WIDE": width, **sizes}
    kinds = {name: _kind(name, dtype) for name in attend_single.arg_names if name not in constants}
    return compile_kernel(
        attend_single,
        kinds,
        constants,
        name=f"attend_single, heads of {width}",
        dtype=dtype,
        arch=arch,
        aligned=_ALIGNED,
        warps=WARPS,
        stages=STAGES[itemsize],
    )


def _kind(name: str, dtype: str) -> str:
    """An argument's type."""
    if name in _SIZES:
        return "i32"
    if name == "scale":
        return "fp32"
    return "*i32" if name in _TABLES else f"*{dtype}"
