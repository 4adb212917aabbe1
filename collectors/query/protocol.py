"""Frames between the daemon, its clients and its readers: a JSON header and bytes.

::

    !I length of the header | !Q length of the body | header (UTF-8 JSON, an object) | body

The frame itself never changes, so that two versions can tell each other which they are
(:mod:`.greeting`); ``PROTOCOL`` counts changes of what is inside.
"""

from __future__ import annotations

import json
import struct
import time
from typing import TYPE_CHECKING, Any

from collectors import errors
from collectors.errors import DataError, OpsuiteError, TimedOut

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

PROTOCOL = 1
MAX_HEADER = 16 << 20
MAX_BODY = 64 << 20
_PREFIX = struct.Struct("!IQ")
_CHUNK = 1 << 20
_ERRORS: dict[str, type[OpsuiteError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, OpsuiteError)
}


def send(
    connection: socket.socket, header: Mapping[str, Any], body: bytes | memoryview = b""
) -> None:
    """Send one frame.

    Raises:
        OSError: the other side is gone, or does not read within the socket's time-out.
    """
    text = json.dumps(header, separators=(",", ":")).encode()
    size = memoryview(body).nbytes
    assert len(text) <= MAX_HEADER, "a header is larger than a receiver takes"
    assert size <= MAX_BODY, "a body is larger than a receiver takes"
    connection.sendall(_PREFIX.pack(len(text), size) + text)
    if size:
        connection.sendall(body)


def receive(
    connection: socket.socket,
    *,
    timeout_s: float | None = None,
    max_header: int = MAX_HEADER,
    max_body: int = MAX_BODY,
) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None where the other side closed the connection between two.

    Args:
        timeout_s: for the whole frame, from its first byte on; None leaves it to the socket.

    Raises:
        DataError: it is no frame of ours, too large, or cut off.
        TimedOut: it is not here within ``timeout_s``.
        OSError: the connection is broken.
    """
    first = connection.recv(1)
    if not first:
        return None
    before = connection.gettimeout()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        prefix = first + _take(connection, _PREFIX.size - 1, deadline)
        header_size, body_size = _PREFIX.unpack(prefix)
        if header_size > max_header or body_size > max_body:
            raise DataError("not a frame of this protocol, or one that is too large")
        header = _parsed(_take(connection, header_size, deadline))
        return header, bytes(_take(connection, body_size, deadline))
    finally:
        connection.settimeout(before)


def _take(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    """Exactly ``size`` bytes; memory grows with what has come, not with what was promised."""
    taken = bytearray()
    while len(taken) < size:
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        try:
            piece = connection.recv(min(size - len(taken), _CHUNK))
        except TimeoutError:
            raise TimedOut("the rest of a message did not come") from None
        if not piece:
            raise DataError("a message was cut off")
        taken += piece
    return taken


def _parsed(text: bytearray) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError("a message is not of this protocol") from None
    if not isinstance(header, dict):
        raise DataError("a message is not of this protocol")
    return header


def error_header(error: OpsuiteError) -> dict[str, Any]:
    """The header that brings an error to the other side."""
    facts = {"what": error.what, "where": error.where, "remedy": error.remedy}
    return {"error": {"class": type(error).__name__, **facts}}


def to_error(header: Mapping[str, Any]) -> OpsuiteError:
    """The error that a header of :func:`error_header` tells; a kind unknown here is the root's."""
    told = header.get("error")
    facts = told if isinstance(told, dict) else {}
    kind = _ERRORS.get(str(facts.get("class")), OpsuiteError)
    texts = {name: str(facts.get(name, "")) for name in ("where", "remedy")}
    return kind(str(facts.get("what", "an error without a text")), **texts)
