"""What a driver and its executors tell each other: plain data, checked where it comes in.

Reports go from executors to the driver, orders from the driver to executors. The state machines on
both sides take these objects as they are, in a live run as in a simulated one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked

VERSION = 1
_STRICT = ConfigDict(extra="forbid", strict=True)


class Resume(StrEnum):
    """Where ranks take their state from."""

    NOTHING = "nothing"
    """They begin anew."""
    MEMORY = "memory"
    """Copies that executors hold."""
    DISK = "disk"
    """A checkpoint."""


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Copy:
    """One rank's state after a step, held in an executor's memory.

    Attributes:
        attempt: in which it was made: a later one may have begun before it, and gone another way.
    """

    attempt: int
    rank: int
    step: int


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class RankState:
    """What an executor sees of one of its ranks.

    Attributes:
        step: the last it has done; -1 before it has begun.
        silent_s: since anything in it moved, by its board.
        waits_in: the collective that it is in, such as "tp[0,1] all_reduce 17", or "".
        process: its state in /proc ("R", "S", "T", "D", ...), or "" where it is gone.
        busy: what excuses it from stepping: "checkpoint", "compile", "evaluation", or "".
    """

    rank: int
    step: int = -1
    silent_s: float = 0.0
    waits_in: str = ""
    process: str = ""
    busy: str = ""


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class StepDone:
    """One step of one rank, and what a look at its numbers says.

    Attributes:
        seconds: from the end of the step before (or of the beginning) to its end.
        data_s, checkpoint_s: of these, waited for the batch; for the first stage of a checkpoint.
        loss, norm: of the whole batch and the whole gradient; None where they are not finite, and
            of ranks that do not know them.
        own_norm: of this rank's gradient before any other rank's is added; None: not finite.
        intact: whether its weights were, before this step, what they were after the last.
    """

    rank: int
    step: int
    seconds: float
    data_s: float = 0.0
    checkpoint_s: float = 0.0
    loss: float | None = 0.0
    norm: float | None = 0.0
    own_norm: float | None = 0.0
    intact: bool = True


# -- reports ---


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Hello:
    """An executor is there: a new one, or one that lost its driver.

    Attributes:
        incarnation: tells executors of one host apart; a new one holds no copies.
        slots: ranks that it can run.
        address: where other executors fetch copies from, "host:port".
        hardware: what the host is, for people and baselines.
        generation: the newest driver that it has obeyed; 0: none.
        attempt: whose ranks it runs; 0: none.
    """

    kind: Literal["hello"] = "hello"
    host: str
    incarnation: str
    slots: int
    address: str = ""
    hardware: str = ""
    generation: int = 0
    attempt: int = 0
    copies: tuple[Copy, ...] = ()


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Beat:
    """A heartbeat.

    Attributes:
        copies: all that it holds, its own ranks' and its peer's.
        done: steps of which no driver has confirmed to have heard; told again until one has.
        done_attempt: the attempt of ``done``, which may be over; 0: ``attempt``.
        sent_bytes: of the host's interfaces, ever; None where nobody counts.
        round_trip_s: to the driver and back, as the kernel has measured it; None where it does not.
        lines: log lines that a rule asked for.
    """

    kind: Literal["beat"] = "beat"
    host: str
    incarnation: str
    attempt: int
    ranks: tuple[RankState, ...] = ()
    done: tuple[StepDone, ...] = ()
    done_attempt: int = 0
    copies: tuple[Copy, ...] = ()
    sent_bytes: int | None = None
    round_trip_s: float | None = None
    lines: tuple[str, ...] = ()


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Began:
    """The ranks of a host are where their first step begins."""

    kind: Literal["began"] = "began"
    host: str
    attempt: int


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Ended:
    """The ranks of a host have ended by themselves.

    Attributes:
        well: whether all came to the end of the training.
        rank: the first that failed, as seen from this host.
        signal: that ended it, or "".
        what: its error in a line.
        out_of_memory: whether the kernel ended it for want of memory.
        lost_peer: whether that is only that another rank went away.
        own_error: whether it is one that starting again cannot mend (a configuration, data).
    """

    kind: Literal["ended"] = "ended"
    host: str
    attempt: int
    well: bool
    rank: int = -1
    signal: str = ""
    what: str = ""
    out_of_memory: bool = False
    lost_peer: bool = False
    own_error: bool = False


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Stopped:
    """No rank of an attempt is left on a host, as it was ordered."""

    kind: Literal["stopped"] = "stopped"
    host: str
    attempt: int


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Checked:
    """A self-check has ended.

    Attributes:
        sound: None where it could not be told.
    """

    kind: Literal["checked"] = "checked"
    host: str
    number: int
    sound: bool | None
    detail: str = ""


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Saved:
    """A checkpoint was published on the disk."""

    kind: Literal["saved"] = "saved"
    host: str
    attempt: int
    step: int


Report = Hello | Beat | Began | Ended | Stopped | Checked | Saved

# -- orders ---


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Place:
    """A host's ranks: ``count`` from ``first`` on."""

    host: str
    first: int
    count: int
    address: str = ""

    @property
    def ranks(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.count)


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Start:
    """Run your ranks.

    Attributes:
        places: of all hosts, in the order of ranks; the first is where they meet.
        step: the last that is done already.
        resume: where the state after it is.
        sources: of each rank's copy: the address of the executor that holds it.
        origin: the attempt in which these copies were made: one that was given up may have left
            others of the same step.
    """

    kind: Literal["start"] = "start"
    generation: int
    attempt: int
    places: tuple[Place, ...]
    step: int
    resume: Resume
    sources: tuple[str, ...] = ()
    origin: int = 0


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Stop:
    """End your ranks of every attempt up to this one, now."""

    kind: Literal["stop"] = "stop"
    generation: int
    attempt: int


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Check:
    """Examine the host, while no ranks run there."""

    kind: Literal["check"] = "check"
    generation: int
    number: int
    thorough: bool = False


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Adopt:
    """You have a new driver; go on."""

    kind: Literal["adopt"] = "adopt"
    generation: int


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Release:
    """The job is over: end."""

    kind: Literal["release"] = "release"
    generation: int


Order = Start | Stop | Check | Adopt | Release

REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])
ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])


# -- what only the driver's own host tells it ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """An executor's connection has ended."""

    host: str
    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDisk:
    """The newest whole checkpoint; step 0: there is none."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """A finding says that ranks, or hosts, are slow.

    Attributes:
        certain: whether it is worth a restart on another host.
    """

    hosts: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    detail: str
    certain: bool = False


class Wish(StrEnum):
    """What people may ask of a run."""

    EVICT = "evict"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A person asks something."""

    wish: Wish
    host: str = ""
    why: str = ""


Event = Report | Tick | Disconnected | OnDisk | Slow | Asked
