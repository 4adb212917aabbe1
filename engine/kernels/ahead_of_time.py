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
    from collections.abc import Iterator, Mapping, Sequence

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
        registers: of a thread.
        shared_bytes: of a program.
        spills: whether it keeps values in memory for want of registers.
        instructions: how often each stands in the machine code, modifiers included.
    """

    kernel: str
    dtype: str
    arch: int
    registers: int
    shared_bytes: int
    spills: bool
    instructions: Mapping[str, int]


def compile_all(arch: int) -> Iterator[Compiled]:
    """Each kernel, for tensors of float32 and bfloat16; blocks as large as models need."""
    for kernel, block in _KERNELS:
        for dtype in ("fp32", "bf16"):
            yield _compile(kernel, block, dtype, arch)


def _compile(kernel: Any, block: int, dtype: str, arch: int) -> Compiled:  # noqa: ANN401
    constants = {**_CONSTANTS, "BLOCK": block}
    kinds = {name: _kind(name, dtype) for name in kernel.arg_names if name not in constants}
    aligned = [name for name, kind in kinds.items() if kind.startswith("*")]
    return compile_kernel(
        kernel,
        kinds,
        constants,
        name=kernel.__name__,
        dtype=dtype,
        arch=arch,
        aligned=aligned,
        warps=warps_for(block),
    )


def compile_kernel(
    kernel: Any,  # noqa: ANN401
    kinds: Mapping[str, str],
    constants: Mapping[str, int],
    *,
    name: str,
    dtype: str,
    arch: int,
    aligned: Sequence[str],
    warps: int,
    stages: int | None = None,
) -> Compiled:
    """A kernel as it is for a device.

    Args:
        kinds: the types of its arguments that are not ``constants``.
        name, dtype: what it is called in the result.
        aligned: arguments whose value is a multiple of 16.
        stages: of its pipelines; None: as many as the compiler likes.
    """
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={n: "constexpr" if n in constants else kinds[n] for n in names},
        constexprs={(at,): constants[n] for at, n in enumerate(names) if n in constants},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    options = {"num_warps": warps} | ({"num_stages": stages} if stages else {})
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, stack, instructions = disassemble(made.asm["cubin"])
    return Compiled(
        kernel=name,
        dtype=dtype,
        arch=arch,
        registers=registers,
        shared_bytes=made.metadata.shared,
        spills=bool(stack) or any(each.partition(".")[0] in SPILLS for each in instructions),
        instructions=instructions,
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
