"""What the compiler makes of the kernels, for devices that are not here: ``python -m`` prints it.

A kernel is refused that spills registers, loads its tiles in small pieces, needs more shared memory
than a device has, touches no signal of another device, or, where there are tensor cores for its
operands, does not use them or does not copy asynchronously.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels.disassembly import SPILLS, disassemble
from engine.overlap.kernels import products
from engine.overlap.kernels.tile_shape import MAX_SPLITS, SHARED_LIMITS, TileShape, default_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SIZE = 8
DTYPES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8e4nv": 1}
"""Operands, as Triton calls them, and their bytes."""
_TENSOR_CORES = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
_FP8_CORES = {90: "QGMMA", 100: "UTCQMMA"}
_ASYNCHRONOUS = ("LDGSTS", "UTMALDG")
_TABLES = {"scattered_product": 2, "sum_of_terms": _SIZE}  # loads of addresses, 8 bytes each


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A kernel for operands of one type.

    Attributes:
        tiled: whether it multiplies tiles.
        transposed: whether the weight lies [K, N] in memory, as in backward and where it is a
            factor of an ``Addend``.
        unaligned: arguments that are not known to be multiples of 16.
    """

    kernel: str
    dtype: str
    tiled: bool
    shape: TileShape
    transposed: bool = False
    unaligned: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What became of a variant on an architecture.

    Attributes:
        arch: such as 90, for sm_90.
        registers: of a thread; ``stack_bytes`` too.
        shared_bytes: of a program.
        instructions: how often each stands in the machine code, modifiers included.
    """

    variant: Variant
    arch: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    instructions: Mapping[str, int]

    def faults(self) -> list[str]:
        """Why it is refused; empty: it is good."""
        found = []
        spills = self._count(*SPILLS)
        if spills or self.stack_bytes:
            found.append(f"spills: {spills} instructions, {self.stack_bytes} bytes of stack")
        if self.shared_bytes > SHARED_LIMITS[self.arch]:
            found.append(f"{self.shared_bytes} bytes of shared memory")
        if narrow := self._narrow_loads():
            found.append(f"loads in small pieces: {', '.join(narrow)}")
        if not any("STRONG.SYS" in name for name in self.instructions):
            found.append("no signals of other devices")
        if self.variant.tiled and self.variant.dtype != "fp32":
            core = self._core()
            if not self._count(core):
                found.append(f"no tensor-core instructions ({core})")
            if not self._count(*_ASYNCHRONOUS):
                found.append("no asynchronous copies")
        return found

    def _core(self) -> str:
        cores = _FP8_CORES if self.variant.dtype == "fp8e4nv" else _TENSOR_CORES
        return cores[self.arch]

    def _count(self, *operations: str) -> int:
        return sum(
            count
            for name, count in self.instructions.items()
            if name.partition(".")[0] in operations
        )

    def _narrow_loads(self) -> list[str]:
        """Loads that move less than 16 bytes, but for those of signals and of address tables."""
        tables = _TABLES.get(self.variant.kernel, 0)
        return [
            name
            for name, count in self.instructions.items()
            if name.startswith(("LDG.", "LDGSTS."))
            and "STRONG" not in name
            and not name.endswith(".128")
            and not (name == "LDG.E.64" and count <= tables)
        ]


def variants(dtype: str) -> Iterator[Variant]:
    """Every kernel for operands of ``dtype``, in the shape that it has unless tuned."""
    shape = default_shape(1024, DTYPES[dtype])
    for kernel in ("gathered_product", "scattered_product"):
        yield Variant(kernel=kernel, dtype=dtype, tiled=True, shape=shape)
        if dtype != "fp8e4nv":  # of which the tensor cores of sm_90 take rows along K only
            yield Variant(kernel=kernel, dtype=dtype, tiled=True, shape=shape, transposed=True)
    if dtype != "fp8e4nv":
        yield Variant(kernel="sum_of_terms", dtype=dtype, tiled=False, shape=shape)
        yield Variant(kernel="await_signals", dtype=dtype, tiled=False, shape=shape)


def compile_variant(variant: Variant, arch: int) -> Compiled:
    """Compile for a device that need not be here."""
    fn = getattr(products, variant.kernel)
    types, constants = _arguments(variant)
    names = [parameter.name for parameter in fn.params]
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = [name for name in names if _is_aligned(name, signature[name], variant)]
    source = ASTSource(
        fn=fn,
        signature=signature,
        constexprs={(at,): constants[n] for at, n in enumerate(names) if n in constants},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    tile = variant.shape
    options = {"num_warps": tile.warps, "num_stages": tile.stages} if variant.tiled else {}
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, stack, instructions = disassemble(kernel.asm["cubin"])
    return Compiled(
        variant=variant,
        arch=arch,
        registers=registers,
        stack_bytes=stack,
        shared_bytes=kernel.metadata.shared,
        instructions=instructions,
    )


def _arguments(variant: Variant) -> tuple[dict[str, str], dict[str, Any]]:
    """Types of the arguments, and those that are constants."""
    result = "bf16" if variant.dtype == "fp8e4nv" else variant.dtype
    of = f"*{variant.dtype}"
    types = dict.fromkeys(
        (
            *("epoch", "shard_rows", "split_rows", "n", "k", "count"),
            *("rank", "first_row", "signal_index"),
        ),
        "i32",
    )
    types |= dict.fromkeys(("stride_x", "stride_n", "stride_k", "stride_out"), "i32")
    types |= {"x": of, "gathered": of, "weight": of, "out": f"*{result}", "scale": "fp32"}
    types |= {"slots": "*i64", "terms": "*i64", "done": "*i32"}
    types["signals"] = "*i64" if variant.kernel == "scattered_product" else "*i32"
    tile = variant.shape
    constants = {
        "stride_n" if variant.transposed else "stride_k": 1,
        "SIZE": _SIZE,
        "MAX_SPLITS": MAX_SPLITS,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
        "EVEN_K": True,
        "AWAIT": True,
        "BLOCK": 1024,
        "STRIDE": 1,
        "OUT": triton.language.dtype(result),
    }
    return types, constants


def _is_aligned(name: str, kind: str, variant: Variant) -> bool:
    sizes = ("n", "k", "stride_x", "stride_n", "stride_k", "stride_out", "shard_rows", "count")
    pointer_or_size = kind.startswith("*") or (kind != "constexpr" and name in sizes)
    return pointer_or_size and name not in variant.unaligned


def compile_all() -> Iterator[Compiled]:
    """Every kernel, for every type of operands that an architecture multiplies."""
    for arch in SHARED_LIMITS:
        for dtype in DTYPES:
            if dtype == "fp8e4nv" and arch not in _FP8_CORES:
                continue
            for variant in variants(dtype):
                yield compile_variant(variant, arch)


def main() -> int:
    """Print a line for each, and say whether all are good."""
    refused = 0
    for each in compile_all():
        faults = each.faults()
        refused += bool(faults)
        name = each.variant.kernel + (" (W^T)" if each.variant.transposed else "")
        print(
            f"{name:24} {each.variant.dtype:8} sm_{each.arch:<4}"
            f"{each.registers:4} registers {each.shared_bytes:7} bytes shared  "
            f"{'; '.join(faults) or 'good'}"
        )
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
