"""The interface of a fleet's policies: which instances compute what, together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.assignment import Assignment
    from engine.elastic.snapshot import Snapshot


class FleetPolicy(Protocol):
    """A snapshot in, assignments out. Deterministic, and a function of the snapshot alone.

    Instances of different assignments are disjoint, and idle. Idle instances that are in none
    decode by themselves: those that are bound together in one group, if all of it is idle. A policy
    that wants an instance to wait for another says so by :meth:`holds`.
    """

    name: str

    def decide(self, snapshot: Snapshot) -> Sequence[Assignment]:
        """What begins now."""
        ...

    def holds(self, snapshot: Snapshot) -> frozenset[int]:
        """Idle instances that begin nothing now, not even decodes, since a group that is to be
        formed waits for them: never for longer than until another instance is idle."""
        ...
