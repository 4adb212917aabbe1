"""How the two ends of a pair test come together: one listens, the other connects."""

from __future__ import annotations

import ipaddress
import socket
import sys
import time
from dataclasses import dataclass

from collectors.api_key import require_key
from collectors.errors import TimedOut, Unreachable, UsageError
from playbooks.checks.handshake import Offer, Refused, admit, join

_PATIENCE_S = 10.0  # with a listener that has not begun yet
_HANDSHAKE_S = 5.0
_RETRY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Two ends that have agreed to test.

    Attributes:
        rank: 0 listens, 1 connects.
        address: of the listening end, as the connection has it.
        own_address: of this end: which interface the test goes over.
        hosts: names of the listener and of the peer.
        listening: the bound socket of the store, with rank 0 only.
    """

    rank: int
    address: str
    own_address: str
    hosts: tuple[str, str]
    offer: Offer
    listening: socket.socket | None = None


def listen(
    host: str, port: int, *, key: str, device: str, seconds: float, limit_s: float
) -> Meeting:
    """Wait for the other end. Whoever comes without the key is sent away, and waited on.

    Raises:
        UsageError: the address is not one to listen on, or needs a key.
        TimedOut: nobody came.
    """
    deadline = time.monotonic() + limit_s
    with _bind(host, port) as server:
        bound = server.getsockname()
        _require_key(host, key, bound[0])
        server.listen()
        _narrate(f"listening at {host}:{bound[1]}")
        while True:
            with _accept(server, deadline) as connection:
                try:
                    return _admit(connection, key, device, seconds)
                except (Refused, OSError) as error:
                    _narrate(f"somebody came and was sent away: {error}")


def _require_key(host: str, key: str, address: str) -> None:
    try:
        require_key(host, key, loopback=is_loopback(address))
    except UsageError as error:
        raise UsageError(error.what, where="--listen", remedy=error.remedy) from None


def _accept(server: socket.socket, deadline: float) -> socket.socket:
    server.settimeout(max(deadline - time.monotonic(), 0.001))
    try:
        return server.accept()[0]
    except TimeoutError:
        host, port, *_ = server.getsockname()
        raise TimedOut(
            "nobody came to test with",
            where=f"{host}:{port}",
            remedy="start `opsuite check --peer` on the other host",
        ) from None


def _admit(connection: socket.socket, key: str, device: str, seconds: float) -> Meeting:
    connection.settimeout(_HANDSHAKE_S)
    address = connection.getsockname()[0]
    listening = _bind(address, 0)
    own = socket.gethostname()
    port = listening.getsockname()[1]
    offer = Offer(host=own, store_port=port, device=device, seconds=seconds)
    try:
        peer = admit(connection, key, offer)
    except BaseException:
        listening.close()
        raise
    return Meeting(
        rank=0,
        address=address,
        own_address=address,
        hosts=(own, peer),
        offer=offer,
        listening=listening,
    )


def connect(host: str, port: int, *, key: str, limit_s: float) -> Meeting:
    """Go to the end that listens.

    Raises:
        Unreachable: nobody listens there, after some seconds of trying.
        UsageError: it does not accept the key, or does not have it.
        TimedOut: it does not answer.
    """
    where = f"{host}:{port}"
    own = socket.gethostname()
    with _reach(host, port, min(limit_s, _PATIENCE_S)) as connection:
        connection.settimeout(min(limit_s, _HANDSHAKE_S))
        try:
            offer = join(connection, key, own)
        except TimeoutError:
            raise TimedOut(
                "the other end accepts the connection and says nothing",
                where=where,
                remedy="check that `opsuite check --listen` is what listens there",
            ) from None
        except (Refused, OSError) as error:
            raise UsageError(
                f"the two ends did not come together: {error}",
                where=where,
                remedy="give both the same key: --api-key-file or OPSUITE_API_KEY",
            ) from None
        address, own_address = connection.getpeername()[0], connection.getsockname()[0]
    hosts = (offer.host, own)
    return Meeting(rank=1, address=address, own_address=own_address, hosts=hosts, offer=offer)


def _reach(host: str, port: int, patience_s: float) -> socket.socket:
    deadline = time.monotonic() + patience_s
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection((host, port), timeout=max(left, _RETRY_S))
        except OSError as error:
            if left <= 0 or isinstance(error, socket.gaierror):
                raise Unreachable(
                    f"nobody to test with: {error.strerror or error}",
                    where=f"{host}:{port}",
                    remedy="start `opsuite check --listen` there, and check the address",
                ) from None
        time.sleep(_RETRY_S)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
        except OSError:
            server.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen there: {error.strerror or error}",
            where=f"{host}:{port}",
            remedy="give an address of this host and a free port",
        ) from None
    return server


def is_loopback(address: str) -> bool:
    """Whether only this host is reached at a numeric address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` (``[::1]:port`` for IPv6).

    Raises:
        UsageError: it is no such text.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            f"{text!r} is no address", where="--listen or --peer", remedy="write it as host:port"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _narrate(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
