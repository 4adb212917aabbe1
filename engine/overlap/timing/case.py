"""What is timed. No torch here: who asks for it has none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Operator = Literal["all_gather_matmul", "matmul_reduce_scatter", "matmul_all_reduce"]
Direction = Literal["forward", "forward_backward"]
Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "float16", "bfloat16"]

OWN_PRODUCT = "gemm_own"
ALONE = ("gemm", OWN_PRODUCT)
"""Ways that are the product alone, with all of its operands there: the library's and our kernel's
(on devices only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An operator and its sizes, those of the whole matrices.

    Attributes:
        m: rows (tokens) of all ranks.
        n, k: the weight is [n, k]. ``all_gather_matmul`` splits its n over the ranks, the others
            split k.
    """

    operator: Operator
    direction: Direction
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.operator} {self.direction} m={self.m} n={self.n} k={self.k}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the ranks are to time.

    Attributes:
        rounds: how often each way is measured.
        tune: whether to look for the fastest choice first, and keep it for later runs.
        pin: whether each rank keeps to a core of its own.
    """

    cases: tuple[Case, ...]
    rounds: int
    device: Device = "cpu"
    dtype: Dtype = "float32"
    tune: bool = False
    pin: bool = True

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """From what :meth:`to_json` gave."""
        cases = tuple(Case(**case) for case in data["cases"])
        return cls(**{**data, "cases": cases})
