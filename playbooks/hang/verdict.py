"""What is concluded of a run in which nothing moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playbooks.finding import Confidence
    from playbooks.hang.place import Place


class Cause(StrEnum):
    """Why a rank does not come."""

    GONE = "gone"
    """Its process is not there any more."""
    STOPPED = "stopped"
    """A signal or a debugger has stopped it."""
    MISMATCH = "mismatch"
    """It is in another collective than the others, or has called it with other arguments."""
    LOADER = "loader"
    """It waits for its data."""
    LOCK = "lock"
    """It waits for another thread."""
    QUEUE = "queue"
    """It waits for a thread of its own to fill (or to empty) a queue."""
    DEVICE = "device"
    """Its device does not complete what it was given."""
    BEFORE_COLLECTIVE = "before_collective"
    """It is anywhere else in its code."""
    ELSEWHERE = "elsewhere"
    """It is on a host that is not seen from here."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """A collective, as one who has come to it tells it.

    Attributes:
        group: with its members; "" not known. ``sequence``: -1 not known.
        size_bytes: None: not known.
        where: the user's line that called it; "" not known.
        given: with what it was called, by name ("sizes", "type", "root"), as far as that is known.
    """

    name: str
    group: str = ""
    sequence: int = -1
    size_bytes: int | None = None
    where: str = ""
    given: tuple[tuple[str, str], ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """A rank that the others wait for.

    Attributes:
        host: "" where it is not seen from here.
        pid: None where it is not seen.
        place: where its code is; None: no stack could be read.
        meeting: the (wrong) collective that it is in itself.
        busy: whether it uses its processor; None: not known.
        last_words: with which it ended.
    """

    rank: int
    host: str
    pid: int | None
    cause: Cause
    place: Place | None = None
    meeting: Meeting | None = None
    busy: bool | None = None
    last_words: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who never came.

    Attributes:
        silence_s: how long nothing has moved.
        step: in which this is; None: not known.
        culprits: empty where all have come and it does not end all the same.
        meeting: the collective that they did not come to; None: nobody waits in one.
        waiting: the ranks in it.
    """

    silence_s: float
    step: int | None
    cause: Cause
    culprits: tuple[Culprit, ...]
    meeting: Meeting | None
    waiting: tuple[int, ...]
    confidence: Confidence


@dataclass(frozen=True, kw_only=True)
class Excuse:
    """Nothing moves, and it is no hang: ``rank`` does ``what`` ("compiles"), at ``where``."""

    rank: int
    what: str
    where: str = ""
