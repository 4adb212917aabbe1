"""Which runs go, and what of a long one: by age, by size, by a cap on each run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from collectors.configuration import Config
from collectors.size import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable

_DAY_NS = 86_400 * 10**9
_THINNED_TO = 0.9  # of the cap, so that not each look thins one seal


class RetentionConfig(Config):
    """What is kept. Pinned and running runs always are."""

    keep_days: float = Field(
        0.0, ge=0, le=36_500, description="runs that ended before that many days go; 0: none do"
    )
    max_size: str = Field(
        "", description='of all runs together, like "50GB"; beyond it the oldest go; "": any'
    )
    run_cap: str = Field(
        "10GB",
        description="of a run's sealed rows; beyond it the oldest go, their sums by minute and the"
        ' newest stretch stay; "": any',
    )

    @field_validator("max_size", "run_cap")
    @classmethod
    def _is_size(cls, text: str) -> str:
        if text and not parse_size(text):
            raise ValueError('nothing would be kept: write "" for any size')
        return text

    @property
    def max_bytes(self) -> int | None:
        """``max_size`` in bytes."""
        return parse_size(self.max_size) if self.max_size else None

    @property
    def cap_bytes(self) -> int | None:
        """``run_cap`` in bytes."""
        return parse_size(self.run_cap) if self.run_cap else None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A seal as the policy sees it: ``bytes`` of rows that can be dropped, beside the sums."""

    seal_id: str
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A run as the policy sees it.

    Attributes:
        bytes: all that it takes of the disk.
        ended_ns: when it ended, or began where nobody knows.
        fixed: pinned, running, or not to be judged: it stays.
        batches: its seals, the oldest first; those of a run within its cap need not be given.
    """

    run_id: str
    bytes: int
    ended_ns: int
    fixed: bool
    batches: tuple[Batch, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A run to remove, and why."""

    run_id: str
    bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Thinning:
    """Seals of a run whose rows are to go while their one-second sums stay."""

    run_id: str
    seal_ids: tuple[str, ...]
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to remove; ``over_bytes`` is by how much the rest exceeds the size that was asked."""

    removals: tuple[Removal, ...] = ()
    thinnings: tuple[Thinning, ...] = ()
    over_bytes: int = 0


def plan_retention(runs: Iterable[Kept], config: RetentionConfig, now_ns: int) -> Plan:
    """Decide what goes: by the cap of each run, by age, then the oldest until the size is right."""
    runs = sorted(runs, key=lambda run: (run.ended_ns, run.run_id))
    removals = []
    for run in runs:
        age_days = (now_ns - run.ended_ns) / _DAY_NS
        if not run.fixed and config.keep_days and age_days > config.keep_days:
            why = f"ended {age_days:.0f} days ago"
            removals.append(Removal(run_id=run.run_id, bytes=run.bytes, why=why))
    gone = {removal.run_id for removal in removals}
    thinnings = [
        thinning
        for run in runs
        if run.run_id not in gone and (thinning := _thin(run, config.cap_bytes)) is not None
    ]
    left = sum(run.bytes for run in runs if run.run_id not in gone)
    left -= sum(thinning.bytes for thinning in thinnings)
    if config.max_bytes is not None:
        for run in runs:
            if left > config.max_bytes and not run.fixed and run.run_id not in gone:
                why = f"all runs take more than {format_size(config.max_bytes)}"
                removals.append(Removal(run_id=run.run_id, bytes=run.bytes, why=why))
                thinned = [one.bytes for one in thinnings if one.run_id == run.run_id]
                left -= run.bytes - sum(thinned)
    gone = {removal.run_id for removal in removals}
    over = 0 if config.max_bytes is None else max(0, left - config.max_bytes)
    kept = tuple(thinning for thinning in thinnings if thinning.run_id not in gone)
    return Plan(removals=tuple(removals), thinnings=kept, over_bytes=over)


def _thin(run: Kept, cap: int | None) -> Thinning | None:
    """The oldest seals to thin; the newest one stays whole, whatever its size."""
    total = sum(batch.bytes for batch in run.batches)
    if cap is None or total <= cap:
        return None
    chosen: list[Batch] = []
    for batch in run.batches[:-1]:
        if total <= cap * _THINNED_TO:
            break
        if batch.bytes:
            chosen.append(batch)
            total -= batch.bytes
    if not chosen:
        return None
    return Thinning(
        run_id=run.run_id,
        seal_ids=tuple(batch.seal_id for batch in chosen),
        rows=sum(batch.rows for batch in chosen),
        bytes=sum(batch.bytes for batch in chosen),
    )
