"""Every environment variable that opsuite reads, typed, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import UsageError

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
        debug: ``OPSUITE_DEBUG``: tracebacks with error messages (default off).
        api_key: ``OPSUITE_API_KEY``: key that ``opsuite serve`` asks of its clients.
    """

    home: Path
    record: bool = True
    debug: bool = False
    api_key: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; an unusable value is a :class:`UsageError`."""
        return cls(
            home=_home(environ),
            record=_switch(environ, "OPSUITE_RECORD", default=True),
            debug=_switch(environ, "OPSUITE_DEBUG", default=False),
            api_key=environ.get("OPSUITE_API_KEY") or None,
        )


def _home(environ: Mapping[str, str]) -> Path:
    if given := environ.get("OPSUITE_HOME"):
        return Path(given).expanduser().absolute()
    data = environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return base / "opsuite"


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
