"""Whatever answers SQL about runs: a session in this process, or a daemon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to a query.

    Attributes:
        table: the first rows, up to the limit; its columns' names are distinct.
        total: how many rows there are in all.
    """

    table: pa.Table
    total: int

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return list(self.table.column_names)

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as Python values."""
        return list(zip(*map(_values, self.table.columns), strict=True))

    @property
    def truncated(self) -> bool:
        """Whether there are more rows than these."""
        return bool(self.total > self.table.num_rows)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """As Python values; texts where Python has none, such as dates after the year 9999."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        values = column.cast("string").to_pylist()
    return values


class Source(Protocol):
    """Answers SQL over the views; use it as a context manager."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        ...

    def arrays(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
        """The columns of a query of ours; one with NULLs is a masked array."""
        ...

    def query(self, sql: str, limit: int | None = None) -> Answer:
        """One SELECT of a user, its first rows; UsageError where it is wrong or another thing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
