"""What can be recorded, and by whom.

A rank or a server opens one recorder (:func:`open_recorder`) and says what happens as it happens.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from collectors.errors import StorageError
from collectors.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from collectors.level import Level


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who records.

    Attributes:
        run_id: the run it belongs to.
        role: "trainer", "server" or "launcher".
        rank: global rank; None where there are no ranks.
        world_size: number of ranks in the run.
        host: name of the host (:func:`collectors.clock.host_name`).
        coordinates: place in the mesh, such as ``{"tp": 1, "dp": 0}``.
    """

    run_id: str
    role: str
    rank: int | None
    world_size: int
    host: str
    coordinates: dict[str, int]


class Recorder(Protocol):
    """What can be recorded; times are :func:`collectors.clock.now_ns`, step -1 is none.

    All of it may be called from any thread, from signal handlers, and after a fork. Around code
    that torch.compile makes a graph of, spans are recorded as anywhere; *inside* of it nothing is
    recorded (a graph has no Python to time), and the graph does not break.
    """

    def span(self, name: str, step: int = -1) -> AbstractContextManager[None]:
        """Record the time that the body takes, also when it raises. Enter it once."""

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        """Record a span measured elsewhere; in the store none ends before it starts."""

    def collective(
        self,
        name: str,
        *,
        group: str,
        group_size: int,
        sequence: int,
        size_bytes: int,
        start_ns: int,
        end_ns: int,
        step: int = -1,
    ) -> None:
        """Record this rank's part in the ``sequence``-th collective of ``group``.

        ``group`` names axis and members, such as "tp[0,1]"; ``group_size`` 0 means unknown.
        """

    def sample(self, name: str, value: float, step: int = -1) -> None:
        """Record a measured value."""

    def event(
        self,
        name: str,
        *,
        subject: int = -1,
        value: float = math.nan,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Record an instant; ``attributes`` are JSON values of at most 16 KiB together."""

    def close(self) -> None:
        """Seal what was recorded; later calls record nothing."""


class NullRecorder:
    """Records nothing: recording is off."""

    def span(self, name: str, step: int = -1) -> AbstractContextManager[None]:
        return _NOTHING

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None: ...

    def collective(
        self,
        name: str,
        *,
        group: str,
        group_size: int,
        sequence: int,
        size_bytes: int,
        start_ns: int,
        end_ns: int,
        step: int = -1,
    ) -> None: ...

    def sample(self, name: str, value: float, step: int = -1) -> None: ...

    def event(
        self,
        name: str,
        *,
        subject: int = -1,
        value: float = math.nan,
        attributes: Mapping[str, Any] | None = None,
    ) -> None: ...

    def close(self) -> None: ...


_NOTHING = nullcontext()


def open_recorder(
    spool: Path, identity: Identity, *, level: Level | None = None, cap_bytes: int | None = None
) -> Recorder:
    """Begin to record into ``spool`` (made if it is missing).

    Args:
        level: the highest level that is recorded; else ``OPSUITE_LEVEL``.
        cap_bytes: what the segments of the whole run may take; else ``OPSUITE_CAP_BYTES``.

    Raises:
        StorageError: the directory cannot be written, or the disk is full.
        UsageError: the environment says nonsense.
    """
    from collectors.spool_recorder import SpoolRecorder

    settings = Settings.from_environment()
    level = settings.level if level is None else level
    cap_bytes = settings.cap_bytes if cap_bytes is None else cap_bytes
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SpoolRecorder(spool, identity, level, cap_bytes)
    except OSError as error:
        raise StorageError.from_os_error(error, f"beginning to record into {spool}") from error
