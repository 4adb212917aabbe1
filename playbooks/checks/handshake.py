"""How two ends of a pair test know each other: both prove that they have the key.

Each end sends a fresh number; each answers with an HMAC-SHA256 over its role and both numbers, so
the key itself is never sent, and nothing that was overheard is of use again. On loopback the key
may be empty. What follows is not encrypted: it is test data.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_NUMBER_BYTES = 32
_PROOF_BYTES = hashlib.sha256().digest_size
_MAX_LINE_BYTES = 1024


class Refused(Exception):  # noqa: N818 - named for what happened
    """The other end has another key, or does not speak this protocol."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the listening end decides.

    Attributes:
        host: its name, for people.
        store_port: where the two processes find each other, at the address of this connection.
        device: ``cpu`` or ``cuda``.
        seconds: how long the two measure.
    """

    host: str
    store_port: int
    device: str
    seconds: float


def admit(connection: socket.socket, key: str, offer: Offer) -> str:
    """The listening end: let the other one in and send it the offer; returns its name.

    Raises:
        Refused: it does not have the key.
        OSError: the connection broke, or took longer than its time-out.
    """
    own = secrets.token_bytes(_NUMBER_BYTES)
    connection.sendall(own)
    other = _receive(connection, _NUMBER_BYTES)
    given = _receive(connection, _PROOF_BYTES)
    if not hmac.compare_digest(given, _prove(key, "peer", own, other)):
        raise Refused("the key is another one")
    connection.sendall(_prove(key, "listener", own, other))
    connection.sendall(json.dumps(asdict(offer)).encode() + b"\n")
    return str(_receive_line(connection))


def join(connection: socket.socket, key: str, host: str) -> Offer:
    """The connecting end, called ``host``: prove the key, check the listener's, take its offer.

    Raises:
        Refused: one end does not have the key of the other.
        OSError: the connection broke, or took longer than its time-out.
    """
    own = secrets.token_bytes(_NUMBER_BYTES)
    other = _receive(connection, _NUMBER_BYTES)
    connection.sendall(own + _prove(key, "peer", other, own))
    given = _receive(connection, _PROOF_BYTES)
    if not hmac.compare_digest(given, _prove(key, "listener", other, own)):
        raise Refused("the listener does not have the key")
    offer = _receive_line(connection)
    connection.sendall(json.dumps(host).encode() + b"\n")
    try:
        return Offer(**offer)
    except TypeError:
        raise Refused("the listener speaks another version") from None


def _prove(key: str, role: str, listener: bytes, peer: bytes) -> bytes:
    message = b"opsuite pair test 1|" + role.encode() + b"|" + listener + peer
    return hmac.digest(key.encode(), message, "sha256")


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:  # what a listener does that is not content with the key
            raise Refused("the other end closed the connection")
        data += part
    return data


def _receive_line(connection: socket.socket) -> Any:  # noqa: ANN401 - any JSON value
    line = b""
    while not line.endswith(b"\n"):
        if len(line) >= _MAX_LINE_BYTES:
            raise Refused("the other end does not speak this protocol")
        line += _receive(connection, 1)
    try:
        return json.loads(line)
    except ValueError:
        raise Refused("the other end does not speak this protocol") from None
