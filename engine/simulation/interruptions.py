"""What interrupts training, and how often: published counts as rates, and a file of one's own.

Built in is table 5 of "The Llama 3 Herd of Models" (arXiv 2407.21783): 419 unplanned interruptions
in 54 days on 16,384 GPUs, by component. The table says what failed. How that shows to a job, and
whether the host must be replaced, it does not say: both are assumptions, and a file may say
otherwise. The 47 planned interruptions of the same days are not in the table.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from collectors.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_DAY_S = 86_400.0
_STRICT = ConfigDict(extra="forbid")
_NEEDED = ("component", "count", "gpus", "days")


class Shows(StrEnum):
    """How a fault shows to the job."""

    CRASH = "crash"
    """A rank's process ends by a signal."""
    KILL = "kill"
    """Somebody kills a rank's process."""
    ERROR = "error"
    """A rank's program ends with an error of its own."""
    LOST = "lost"
    """The host falls silent."""
    HANG = "hang"
    """The ranks of one host never come to a collective."""
    STALL = "stall"
    """All ranks wait, and none stands out."""
    SILENT = "silent"
    """Numbers go wrong, and ranks go on."""


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Component:
    """What fails.

    Attributes:
        count: interruptions by it, on ``gpus`` GPUs in ``days`` days.
        replace: whether its host is bad until it is replaced; else starting again is enough.
        found: chance that a self-check of a bad host finds it.
    """

    component: str = Field(min_length=1)
    count: float = Field(gt=0)
    gpus: float = Field(gt=0)
    days: float = Field(gt=0)
    shows: Shows = Shows.CRASH
    replace: bool = False
    found: float = Field(default=1.0, ge=0, le=1)

    @property
    def per_gpu_s(self) -> float:
        """Interruptions a second, of each GPU."""
        return self.count / (self.gpus * self.days * _DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruptions:
    """All of them.

    Attributes:
        source: where the counts come from.
    """

    source: str
    components: tuple[Component, ...]

    def per_s(self, gpus: int) -> float:
        """Interruptions a second of a job on so many GPUs."""
        return gpus * sum(each.per_gpu_s for each in self.components)


def _llama(component: str, count: int, shows: Shows, *, replace: bool) -> Component:
    return Component(
        component=component, count=count, gpus=16_384, days=54, shows=shows, replace=replace
    )


LLAMA3 = Interruptions(
    source="The Llama 3 Herd of Models, arXiv 2407.21783, table 5: 419 unplanned interruptions,"
    " 16,384 GPUs, 54 days",
    components=(
        _llama("faulty GPU", 148, Shows.CRASH, replace=True),
        _llama("GPU HBM3 memory", 72, Shows.CRASH, replace=True),
        _llama("software bug", 54, Shows.ERROR, replace=False),
        _llama("network switch or cable", 35, Shows.STALL, replace=False),
        _llama("unplanned host maintenance", 32, Shows.LOST, replace=True),
        _llama("GPU SRAM memory", 19, Shows.CRASH, replace=True),
        _llama("GPU system processor", 17, Shows.HANG, replace=True),
        _llama("network card", 7, Shows.STALL, replace=True),
        _llama("NCCL watchdog time-out", 7, Shows.STALL, replace=False),
        _llama("silent data corruption", 6, Shows.SILENT, replace=True),
        _llama("GPU thermal interface or sensor", 6, Shows.CRASH, replace=True),
        _llama("SSD", 3, Shows.ERROR, replace=True),
        _llama("power supply", 3, Shows.LOST, replace=True),
        _llama("server chassis", 2, Shows.LOST, replace=True),
        _llama("I/O expansion board", 2, Shows.CRASH, replace=True),
        _llama("dependency", 2, Shows.ERROR, replace=False),
        _llama("CPU", 2, Shows.LOST, replace=True),
        _llama("system memory", 2, Shows.CRASH, replace=True),
    ),
)

KILLED = Interruptions(
    source="a drill: the process of one rank is killed",
    components=(
        Component(
            component="killed rank", count=1, gpus=1, days=1, shows=Shows.KILL, replace=False
        ),
    ),
)

BUILT_IN = {"llama3": LLAMA3, "kill": KILLED}
_COMPONENTS = TypeAdapter(list[Component])


def find_interruptions(name: str | Path) -> Interruptions:
    """Those that are built in, or of a file: a JSON list of objects, or CSV with a head.

    Each has ``component``, ``count``, ``gpus``, ``days``, and may have ``shows``, ``replace``,
    ``found``.

    Raises:
        UsageError: there is no such file.
        DataError: its content cannot be used.
    """
    from pathlib import Path

    if str(name) in BUILT_IN:
        return BUILT_IN[str(name)]
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _unusable(path, "it is not UTF-8 text") from error
    except OSError as error:
        raise UsageError(
            f"the failures cannot be read: {error.strerror}",
            where=str(path),
            remedy=f"name a JSON or CSV file, or one of {', '.join(BUILT_IN)}",
        ) from error
    return Interruptions(source=str(path), components=_parse(path, text))


def _parse(path: Path, text: str) -> tuple[Component, ...]:
    try:
        rows: Any = json.loads(text) if path.suffix == ".json" else _from_csv(text)
        found = tuple(_COMPONENTS.validate_python(rows))
    except json.JSONDecodeError as error:
        raise _unusable(path, f"it is not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _unusable(path, f"row {place}: {first['msg']}") from error
    if not found:
        raise _unusable(path, "it has no components")
    return found


def _from_csv(text: str) -> list[dict[str, str]]:
    """Of each row what it gives; an empty cell is the default."""
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [{name: cell for name, cell in row.items() if cell} for row in rows]


def _unusable(path: Path, what: str) -> DataError:
    optional = [each.name for each in fields(Component) if each.name not in _NEEDED]
    return DataError(
        what,
        where=str(path),
        remedy=f"give each row {', '.join(_NEEDED)}, and if need be {', '.join(optional)}",
    )
