"""What went wrong with a job, as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a job had to start again, or why somebody should look."""

    KILLED = "killed"
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"
    ERROR = "error"
    STOPPED = "process stopped"
    DEADLOCK = "deadlock"
    LOOP = "endless loop"
    HANG = "hang"
    START = "does not start"
    EXECUTOR_LOST = "executor lost"
    HOST_LOST = "host lost"
    PEER_LOST = "connection between ranks lost"
    NAN_BATCH = "not a number, on all ranks"
    NAN_RANK = "not a number, on one replica"
    CORRUPT_GRADIENT = "corrupted gradient"
    CORRUPT_WEIGHTS = "corrupted weights"
    SPIKE = "loss spike"
    TRAFFIC = "traffic off its pattern"
    LINK = "slow link"
    KEYWORD = "log line"
    STORAGE = "storage stalls"
    SLOW = "slow host"
    PERSON = "asked by a person"
    UNKNOWN = "unknown"


NUMERIC = frozenset(
    {Cause.NAN_BATCH, Cause.NAN_RANK, Cause.CORRUPT_GRADIENT, Cause.CORRUPT_WEIGHTS}
)
"""After these the newest state may be bad already."""

SUSPECT = frozenset(
    {
        Cause.CRASHED,
        Cause.HOST_LOST,
        Cause.EXECUTOR_LOST,
        Cause.NAN_RANK,
        Cause.CORRUPT_GRADIENT,
        Cause.CORRUPT_WEIGHTS,
        Cause.SLOW,
    }
)
"""After these the hosts concerned may be what is bad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that a rule has found.

    Attributes:
        recover: whether the job must start again; else people are told.
        hosts, ranks: concerned, as far as that is known.
        good_until: the last step whose state can be trusted; None: all that was done.
        detail: what was seen, for people.
    """

    cause: Cause
    recover: bool = True
    hosts: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    good_until: int | None = None
    detail: str = ""

    @property
    def signature(self) -> tuple[str, tuple[int | str, ...]]:
        """What makes two of them the same fault again."""
        return str(self.cause), self.ranks or self.hosts
