"""The first frame of each side: which versions they are, and what to do where these differ.

This exchange never changes: client {"protocol": [lowest, highest], "opsuite": version}, daemon
{"protocol": [lowest, highest], "opsuite": version, "pid": ..., "speaks": chosen} or an error beside
its range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectors.errors import DataError, UsageError
from collectors.query.protocol import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST = 1
"""The oldest version of the protocol that this code speaks beside ``PROTOCOL``."""


def greeting(version: str) -> dict[str, Any]:
    """What either side says of itself; ``version`` is opsuite's."""
    return {"protocol": [OLDEST, PROTOCOL], "opsuite": version}


def agree(client: Mapping[str, Any], daemon: Mapping[str, Any]) -> int:
    """The version that both speak, of their greetings.

    Raises:
        UsageError: there is none; it says which side is the old one and what to do.
        DataError: a greeting is malformed.
    """
    client_lowest, client_highest = _range(client)
    daemon_lowest, daemon_highest = _range(daemon)
    versions = f"client {client.get('opsuite')}, collector {daemon.get('opsuite')}"
    if client_highest < daemon_lowest:
        raise UsageError(
            "this opsuite is older than the collector that runs here",
            where=versions,
            remedy="upgrade the client: use the opsuite that started the collector",
        )
    if daemon_highest < client_lowest:
        raise UsageError(
            "the collector that runs here is older than this opsuite",
            where=versions,
            remedy="run `opsuite collect stop`: the next command starts the new one",
        )
    return min(client_highest, daemon_highest)


def _range(told: Mapping[str, Any]) -> tuple[int, int]:
    bounds = told.get("protocol")
    if (
        not isinstance(bounds, list)
        or [type(bound) for bound in bounds] != [int, int]
        or bounds[0] > bounds[1]
    ):
        raise DataError("a greeting without versions: not a collector or client of opsuite")
    return bounds[0], bounds[1]
