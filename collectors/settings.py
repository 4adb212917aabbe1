"""Every environment variable that opsuite reads, typed, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from collectors.level import Level
from collectors.size import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says.

    Attributes:
        home: ``OPSUITE_HOME``: runs, store and caches (default ``~/.local/share/opsuite``).
        record: ``OPSUITE_RECORD``: whether runs record their events (default on).
        level: ``OPSUITE_LEVEL``: "always", "sampled" or "trigger", the highest that is recorded
            (default sampled).
        cap_bytes: ``OPSUITE_CAP_BYTES``: what a run's spool may take, all ranks together
            (default 10 GB); a rank has its part of it, and at least 16 MiB.
        debug: ``OPSUITE_DEBUG``: tracebacks with error messages (default off).
        api_key: ``OPSUITE_API_KEY``: key that ``serve`` and ``export`` ask of their clients,
            and that ``opsuite watch`` sends.
        collect: ``OPSUITE_COLLECT``: whether launch and serve start the collector (default on).
        collector: ``OPSUITE_COLLECTOR``: socket of another user's collector to read from.
        run: ``OPSUITE_RUN``: id of the run that a watched trainer joins (``opsuite run`` sets it).
        streams: ``OPSUITE_STREAMS``: which descriptors of its ranks ``opsuite run`` shows, as
            ``device:inode,...``; it sets this itself.
        watchdog: ``OPSUITE_WATCHDOG``: whether watched runs get a watchdog (default on).
        hang_s: ``OPSUITE_HANG_S``: how long nothing may move before a run is looked at as hung
            (default 15 seconds, and longer where the run has paused for longer before).
        runtime: ``XDG_RUNTIME_DIR``: where sockets of this user go.
    """

    home: Path
    record: bool = True
    level: Level = Level.SAMPLED
    cap_bytes: int = 10 * 10**9
    debug: bool = False
    api_key: str | None = None
    collect: bool = True
    collector: Path | None = None
    run: str | None = None
    streams: str = ""
    watchdog: bool = True
    hang_s: float = 15.0
    runtime: Path | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; an unusable value is a :class:`UsageError`."""
        return cls(
            home=_home(environ),
            record=_switch(environ, "OPSUITE_RECORD", default=True),
            level=_level(environ),
            cap_bytes=_size(environ, "OPSUITE_CAP_BYTES", default=cls.cap_bytes),
            debug=_switch(environ, "OPSUITE_DEBUG", default=False),
            api_key=environ.get("OPSUITE_API_KEY") or None,
            collect=_switch(environ, "OPSUITE_COLLECT", default=True),
            collector=_path(environ, "OPSUITE_COLLECTOR"),
            run=environ.get("OPSUITE_RUN") or None,
            streams=environ.get("OPSUITE_STREAMS", ""),
            watchdog=_switch(environ, "OPSUITE_WATCHDOG", default=True),
            hang_s=_seconds(environ, "OPSUITE_HANG_S", default=cls.hang_s),
            runtime=_path(environ, "XDG_RUNTIME_DIR"),
        )


def _home(environ: Mapping[str, str]) -> Path:
    if given := environ.get("OPSUITE_HOME"):
        return Path(given).expanduser().absolute()
    data = environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return base / "opsuite"


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    given = environ.get(name)
    return Path(given).expanduser().absolute() if given else None


def _level(environ: Mapping[str, str]) -> Level:
    given = environ.get("OPSUITE_LEVEL") or Level.SAMPLED.name
    try:
        return Level[given.upper()]
    except KeyError:
        known = ", ".join(level.name.lower() for level in Level)
        raise UsageError(
            f"OPSUITE_LEVEL={given!r} is no level", where="the environment", remedy=f"set {known}"
        ) from None


def _size(environ: Mapping[str, str], name: str, *, default: int) -> int:
    given = environ.get(name)
    if not given:
        return default
    try:
        return parse_size(given)
    except ValueError as error:
        raise UsageError(
            f"{name}: {error}", where="the environment", remedy="set it to a size, or unset it"
        ) from error


def _seconds(environ: Mapping[str, str], name: str, *, default: float) -> float:
    given = environ.get(name)
    if not given:
        return default
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"{name}={given!r} is no time", where="the environment", remedy="set it to seconds"
        )
    return value


def _switch(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = environ.get(name)
    if value is None:
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise UsageError(
        f"{name}={value!r} is not a switch", where="the environment", remedy=f"set {name} to 0 or 1"
    )
