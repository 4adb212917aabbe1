"""What was found to be fastest, for each product: how it is cut, and how it communicates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from engine.overlap.kernels.tile_shape import CommunicationShape, TileShape

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

Operation = Literal["all_gather_matmul", "reduce_scatter", "all_reduce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A product as one rank computes it: [m, k] times [n, k] transposed."""

    operation: Operation
    m: int
    n: int
    k: int
    dtype: str

    @classmethod
    def of(cls, operation: Operation, m: int, n: int, k: int, dtype: torch.dtype) -> Sizes:
        """With the type as torch calls it."""
        name = str(dtype).removeprefix("torch.")
        return cls(operation=operation, m=m, n=n, k=k, dtype=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How to do it.

    Attributes:
        in_parts: whether each rank's rows are multiplied by themselves (CPU), and whether sums over
            all rows are scattered and gathered, not made whole by every rank.
        tile, communication: of the kernels; CUDA only.
    """

    in_parts: bool | None = None
    tile: TileShape | None = None
    communication: CommunicationShape | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Choice:
        """From what :meth:`to_json` gave.

        Raises:
            TypeError: it is not that.
        """
        tile, communication = data["tile"], data["communication"]
        return cls(
            in_parts=data["in_parts"],
            tile=tile and TileShape(**tile),
            communication=communication and CommunicationShape(**communication),
        )


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices by sizes; ranks of a group must hold the same ones."""

    table: dict[Sizes, Choice] = field(default_factory=dict)

    def of(self, sizes: Sizes) -> Choice | None:
        """The choice for these sizes, or for the nearest number of rows (within a factor of 2)."""
        found = self.table.get(sizes)
        if found is not None:
            return found
        near = [each for each in self.table if _alike(each, sizes)]
        return self.table[min(near, key=lambda each: abs(each.m - sizes.m))] if near else None

    def to_json(self) -> list[list[dict[str, Any]]]:
        """As JSON: pairs of sizes and choice."""
        return [[asdict(sizes), choice.to_json()] for sizes, choice in self.table.items()]

    @classmethod
    def from_json(cls, data: list[list[dict[str, Any]]]) -> Choices:
        """From what :meth:`to_json` gave."""
        return cls.from_pairs((Sizes(**sizes), Choice.from_json(choice)) for sizes, choice in data)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[Sizes, Choice]]) -> Choices:
        """Later ones replace earlier ones."""
        return cls(dict(pairs))


def _alike(one: Sizes, other: Sizes) -> bool:
    same = (one.operation, one.n, one.k, one.dtype) == (
        other.operation,
        other.n,
        other.k,
        other.dtype,
    )
    return same and max(one.m, other.m) <= 2 * min(one.m, other.m)
