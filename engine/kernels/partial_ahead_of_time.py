"""What the compiler makes of attention to a part of the keys, for devices that are not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.kernels import partial_decode, partial_softmax, stripe_attention
from engine.kernels.ahead_of_time import Compiled, compile_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZES = ("window", "group", "heads", "key_token", "key_head", "value_token", "value_head")
_TABLES = ("tiles", "stripes", "slots", "pieces", "order", "bounds")
_SOFTMAX = ("out", "lse", "outs", "lses")
_ALIGNED_SIZES = _SIZES[-4:]


def compile_partial(arch: int, widths: tuple[int, ...] = (64, 128, 256)) -> Iterator[Compiled]:
    """For heads of these widths and tensors of float32 and bfloat16."""
    for width in widths:
        for dtype, itemsize in (("fp32", 4), ("bf16", 2)):
            tile = stripe_attention.tile_of(itemsize, width)
            sizes = {"ROWS": tile.rows, "TOKENS": tile.tokens}
            options = {"warps": tile.warps, "stages": tile.stages}
            yield _compile(stripe_attention.attend_stripe, width, dtype, arch, sizes, options)
            sizes = {"ROWS": 16, "TOKENS": partial_decode.TILES[itemsize]}
            options = {"warps": partial_decode.WARPS}
            yield _compile(partial_decode.attend_piece, width, dtype, arch, sizes, options)
        sizes = {"PARTS": partial_softmax.PARTS}
        options = {"warps": partial_softmax.MERGE_WARPS}
        yield _compile(partial_softmax.merge_parts, width, "fp32", arch, sizes, options)


def _compile(
    kernel: Any,  # noqa: ANN401
    width: int,
    dtype: str,
    arch: int,
    sizes: dict[str, int],
    options: dict[str, int],
) -> Compiled:
    constants = {"WIDTH": width, "WIDE": width, **sizes}
    kinds = {name: _kind(name, dtype) for name in kernel.arg_names if name not in constants}
    return compile_kernel(
        kernel,
        kinds,
        constants,
        name=f"{kernel.__name__}, heads of {width}",
        dtype=dtype,
        arch=arch,
        aligned=[n for n, kind in kinds.items() if kind.startswith("*") or n in _ALIGNED_SIZES],
        **options,
    )


def _kind(name: str, dtype: str) -> str:
    """An argument's type."""
    if name in _SIZES:
        return "i32"
    if name == "scale":
        return "fp32"
    if name in _TABLES:
        return "*i32"
    return "*fp32" if name in _SOFTMAX else f"*{dtype}"
