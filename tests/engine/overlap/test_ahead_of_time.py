"""The checks of compiled kernels: all kernels pass them, and bad ones do not."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="needs the engine extra, on Linux")
if sys.platform != "linux":
    pytest.skip("Triton compiles on Linux", allow_module_level=True)

from engine.overlap.ahead_of_time import (
    DTYPES,
    compile_variant,
    variants,
)
from engine.overlap.kernels.tile_shape import SHARED_LIMITS, TileShape


def _check(dtype: str, arch: int) -> None:
    for variant in variants(dtype):
        assert compile_variant(variant, arch).faults() == [], variant.kernel


@pytest.mark.parametrize("arch", list(SHARED_LIMITS))
def test_kernels_compile_well(arch: int) -> None:
    _check("bf16", arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", list(SHARED_LIMITS))
@pytest.mark.parametrize("dtype", [each for each in DTYPES if each != "bf16"])
def test_kernels_compile_well_for_every_type(dtype: str, arch: int) -> None:
    if dtype != "fp8e4nv" or arch >= 90:
        _check(dtype, arch)


def test_bad_kernels_are_refused() -> None:
    good = next(variants("bf16"))
    for stride in ("stride_x", "stride_n"):  # the other operand's loads are good
        apart = replace(good, unaligned=frozenset({stride}))
        [narrow] = compile_variant(apart, 90).faults()
        assert narrow.startswith("loads in small pieces: LDG.E.U16")
    all_apart = replace(good, unaligned=frozenset({"stride_x", "stride_n"}))
    [narrow, synchronous] = compile_variant(all_apart, 90).faults()
    assert "loads in small pieces" in narrow
    assert synchronous == "no asynchronous copies"
    huge = TileShape(block_m=256, block_n=128, block_k=128, stages=4, warps=4)
    [spills, shared] = compile_variant(replace(good, shape=huge), 80).faults()
    assert spills.startswith("spills: ")
    assert "bytes of shared memory" in shared
    [plain] = compile_variant(replace(next(variants("fp32")), dtype="fp32"), 90).faults() or [""]
    assert plain == ""
    without = replace(compile_variant(good, 90), instructions={"LDGSTS.E.BYPASS.128": 1})
    assert without.faults() == [
        "no signals of other devices",
        "no tensor-core instructions (HGMMA)",
    ]
