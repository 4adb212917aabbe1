"""What the compiler makes of the fused operations, for devices that are not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels import cross_entropy, rms_norm, rotary, swiglu
from engine.kernels.disassembly import SPILLS, disassemble
from engine.kernels.warps import warps_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTEGERS = (
    "width", "rows", "count", "vocabulary", "heads", "length", "half",
    *("stride_b", "stride_h", "stride_s", "out_b", "out_h", "out_s"),
)  # fmt: skip
_CONSTANTS = {"SIGN": 1}
_KERNELS: tuple[tuple[Any, int], ...] = (
    (rms_norm.normalize, 4096),
    (rms_norm.normalize_backward, 4096),
    (rotary.turn, 64),
    (swiglu.gate_product, 1024),
    (swiglu.gate_product_backward, 1024),
    (cross_entropy.losses_and_gradients, 8192),
)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One kernel for one device.

    Attributes:
        spills: whether it keeps values in memory for want of registers.
    """

    kernel: str
    dtype: str
    arch: int
    spills: bool


def compile_all(arch: int) -> Iterator[Compiled]:
    """Each kernel, for tensors of float32 and bfloat16; blocks as large as models need."""
    for kernel, block in _KERNELS:
        for dtype in ("fp32", "bf16"):
            yield _compile(kernel, block, dtype, arch)


def _compile(kernel: Any, block: int, dtype: str, arch: int) -> Compiled:  # noqa: ANN401
    constants = {**_CONSTANTS, "BLOCK": block}
    names = kernel.arg_names
    kinds = {name: "constexpr" if name in constants else _kind(name, dtype) for name in names}
    pointers = [at for at, name in enumerate(names) if kinds[name].startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=kinds,
        constexprs={(at,): constants[n] for at, n in enumerate(names) if n in constants},
        attrs={(at,): [["tt.divisibility", 16]] for at in pointers},
    )
    options = {"num_warps": warps_for(block)}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    _, _, instructions = disassemble(made.asm["cubin"])
    return Compiled(
        kernel=kernel.__name__,
        dtype=dtype,
        arch=arch,
        spills=any(instructions[each] for each in SPILLS),
    )


def _kind(name: str, dtype: str) -> str:
    """An argument's type: sizes, single numbers, tables in float32, else pointers to ``dtype``."""
    if name in _INTEGERS:
        return "i32"
    if name == "eps":
        return "fp32"
    if name == "targets":
        return "*i64"
    return "*fp32" if name in ("scales", "losses", "cos", "sin") else f"*{dtype}"
