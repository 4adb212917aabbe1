"""``python -m engine.kernels``: what the compiler makes of every kernel, a line for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.kernels.ahead_of_time import Compiled, compile_all
from engine.kernels.paged_ahead_of_time import compile_paged
from engine.kernels.partial_ahead_of_time import compile_partial

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARCHITECTURES = (80, 90, 100)


def compiled() -> Iterator[Compiled]:
    """Every kernel for every architecture."""
    for arch in _ARCHITECTURES:
        for compile_some in (compile_all, compile_paged, compile_partial):
            yield from compile_some(arch)


def main() -> int:
    """Print them, and say whether all stay in registers."""
    spilling = 0
    for each in compiled():
        spilling += each.spills
        print(
            f"{each.kernel:32} {each.dtype:6} sm_{each.arch:<4}{each.registers:4} registers "
            f"{each.shared_bytes:7} bytes shared  {'spills' if each.spills else 'good'}"
        )
    return 1 if spilling else 0


if __name__ == "__main__":
    raise SystemExit(main())
