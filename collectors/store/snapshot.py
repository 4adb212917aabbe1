"""Where all of the store lies at one instant: what a session needs to answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files of one table, by absolute path; together each row is in them once.

    Attributes:
        parquet: sealed files.
        hot: Arrow IPC files of what is not sealed yet (small tables: all of it).
    """

    parquet: tuple[str, ...] = ()
    hot: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One state of the store; its files stay readable for a minute after it is superseded.

    Attributes:
        version: grows with every change; of two snapshots with one version nothing differs.
        parquet: the directory of all sealed files.
        run_ids: all runs, the newest first; "last" means the first.
        tables: sources of every table of :mod:`.tables`.
    """

    version: int
    parquet: str
    run_ids: tuple[str, ...] = ()
    tables: dict[str, Sources] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        return cls(
            version=data["version"],
            parquet=data["parquet"],
            run_ids=tuple(data["run_ids"]),
            tables={
                name: Sources(parquet=tuple(files["parquet"]), hot=tuple(files["hot"]))
                for name, files in data["tables"].items()
            },
        )
