"""What every sampler is: something that is read again and again, and may not be there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Absent(Exception):  # noqa: N818 - a state of the machine, not an error
    """The source is not on this machine, or may not be read; the text says why, and what helps."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured value; it becomes a sample of every run that lives on the host.

    Names are ``family.metric`` or ``family.instance.metric``, such as ``host.cpu_util_pct`` and
    ``gpu.0.power_w``; the unit is in the name where it is not seconds, bytes or a count.
    """

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened since the last reading; it becomes an event."""

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    value: float = math.nan


class Sampler(Protocol):
    """One source. It keeps what it needs for differences; rates come from its second reading on.

    Attributes:
        name: what it is called where it is told of ("nvml", "infiniband").
        period_s: how often it wants to be read.
    """

    name: str
    period_s: float

    def read(self) -> Sequence[Reading | Happening]:
        """What is so now. A part of the source that fails does not take the others with it.

        Raises:
            Absent: the source is not here, or not any more.
        """

    def close(self) -> None:
        """Let go of the source."""
