"""The socket that the server listens on."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

from collectors.errors import UsageError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A bound socket. Connections are refused until the server listens, when it is ready.

    Attributes:
        host: as the user gave it.
        loopback: whether only this machine can reach it.
    """

    socket: socket.socket
    host: str
    loopback: bool

    @property
    def port(self) -> int:
        """The port, also where the system chose it."""
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where clients find the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def allowed_hosts(self) -> frozenset[str] | None:
        """Host headers to accept; None = any, where the API key is what protects."""
        return _LOOPBACK_NAMES | {self.host.lower()} if self.loopback else None


def bind(host: str, port: int) -> Listener:
    """Take an address before anything slow happens.

    Raises:
        UsageError: there is no such address here, or the port is in use or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UsageError(
            f"cannot resolve the host {host!r}", where="--host", remedy="give an address"
        ) from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _refused(error, host, port) from None
    loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    return Listener(socket=sock, host=host, loopback=loopback)


def listen(listener: Listener) -> None:
    """Begin to accept connections.

    Raises:
        UsageError: another process has begun to listen on the port meanwhile.
    """
    try:
        listener.socket.listen(2048)
    except OSError as error:
        raise _refused(error, listener.host, listener.port) from None


def _refused(error: OSError, host: str, port: int) -> UsageError:
    where = f"{host}, port {port}"
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} is in use", where=where, remedy="give another --port; 0 takes a free one"
        )
    if error.errno == errno.EACCES:
        return UsageError(
            f"not allowed to listen on port {port}", where=where, remedy="take one above 1023"
        )
    return UsageError(f"cannot listen: {error.strerror}", where=where, remedy="give another --host")
