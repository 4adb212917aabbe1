"""What a playbook concludes, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Confidence(StrEnum):
    """How sure a finding is, from the strength of its evidence against the run's own noise."""

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One measured fact.

    Attributes:
        what: what was measured in the suspect steps, giving ``value``; or a fact without a figure,
            whose ``value`` is None.
        against: what it is compared with, giving ``baseline``; "" and None where there is nothing.
        unit: of both: "s", "ranks" or the like for a count, or "" for a plain number.
    """

    what: str
    value: float | None
    against: str
    baseline: float | None
    unit: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One culprit.

    Attributes:
        kind: what happened: ``straggler``, ``host_contention``, ``hang``.
        ranks: the guilty ranks; empty where a whole host or nobody in particular is to blame.
        hosts: the hosts concerned.
        phase: the phase of the step that lost most of the time.
        cause: ``cpu_throttling`` (the kernel stopped it for having used up its quota of cores),
            ``garbage_collection`` (Python's), ``cpu_contention`` (it waited for its core),
            ``slow_core`` (all that it computes
            took more time on the core), ``extra_work_of_its_own`` (more time on the core in
            ``phase``, while other phases took as long as ever), ``waits_off_the_processor`` (the
            same, but not on a core: a sleep, a lock, I/O, its device) or ``unknown``; of a hang
            see :class:`playbooks.hang.verdict.Cause`.
        first_step, last_step: the steps concerned, both inclusive; -1 where they have no number.
        slowdown: own time in those steps over the expected own time; 2.0 is twice as slow. None
            where nothing shows what to expect.
        share_lost: part of the run's wall time that this cost, 0 to 1.
        evidence: the measured facts behind it.
        sql: a query for ``opsuite query`` that shows it.
        action: what to do about it.
    """

    kind: str
    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    phase: str
    cause: str
    first_step: int
    last_step: int
    slowdown: float | None
    share_lost: float
    confidence: Confidence
    evidence: tuple[Evidence, ...]
    sql: str
    action: str

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object; ``steps`` is [first, last]."""
        data = asdict(self)
        data["steps"] = [data.pop("first_step"), data.pop("last_step")]
        data["confidence"] = str(self.confidence)
        return data
