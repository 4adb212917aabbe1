"""A server's ``/metrics``, fetched with care: bounded in size and time, and from nowhere else.

Proxies of the environment are not used: servers are watched from where they can be reached.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from collectors.errors import DataError, TimedOut, Unreachable, UsageError
from collectors.samplers.server_dialects import DIALECTS
from collectors.version import own_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_BYTES = 16 << 20
_MOST_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
_PORTS = {"http": 80, "https": 443}


class Refused(Unreachable):
    """The server answered, and waiting will not change what it says."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server tells its metrics.

    Attributes:
        target: path and query, as asked for.
        authorization: the header's value; "" for none.
    """

    scheme: str
    host: str
    port: int
    target: str
    authorization: str

    @property
    def shown(self) -> str:
        """It, without any secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target.partition('?')[0]}"


def parse_address(url: str, *, api_key: str | None = None) -> Address:
    """The metrics of the server at ``url``: its root, its ``/v1``, or the metrics themselves.

    Args:
        api_key: sent as a bearer token, where the URL has no user of its own.

    Raises:
        UsageError: it is no address that can be asked.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise _no_address("it cannot be understood") from None
    if parts.scheme not in _PORTS:
        raise _no_address(f"{parts.scheme}:// is not spoken here")
    if not parts.hostname:
        raise _no_address("it names no host")
    target = _metrics_path(parts.path) + (f"?{parts.query}" if parts.query else "")
    address = Address(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        target=target,
        authorization=_authorization(parts, api_key),
    )
    if not (_is_sendable(target) and _is_sendable(address.authorization.replace(" ", "", 1))):
        raise _no_address("it has characters that cannot be sent")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise _no_address("its host is no name") from None
    return address


def _is_sendable(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _no_address(why: str) -> UsageError:
    return UsageError(
        f"no address of a server: {why}", where="URL", remedy="write it like http://host:8000"
    )


def _metrics_path(path: str) -> str:
    base = path.rstrip("/")
    return path if base.endswith("/metrics") else f"{base.removesuffix('/v1')}/metrics"


def _authorization(parts: SplitResult, api_key: str | None) -> str:
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Basic {b64encode(pair.encode()).decode()}"
    return f"Bearer {api_key}" if api_key else ""


def fetch(address: Address, *, timeout_s: float) -> str:
    """What the server says now.

    Args:
        timeout_s: for all of it, redirects too.

    Raises:
        Refused: it has no metrics, or not for us.
        Unreachable: nobody answers, or with an error of the server's.
        TimedOut: not within the time.
        DataError: the answer is cut off, too large, or no text.
    """
    deadline = _Deadline(address, timeout_s)
    asked = address
    with deadline:
        for _ in range(_MOST_REDIRECTS + 1):
            status, headers, body = _ask(asked, deadline)
            if status not in _REDIRECTS:
                break
            asked = _follow(asked, headers.get("location", ""))
        else:
            raise Refused("it redirects in a circle", where=address.shown)
    _check_status(asked, status)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("the answer is no UTF-8 text", where=asked.shown) from None


class _Deadline:
    """Cuts the connection when the time is over, however slowly the other side speaks."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self.timeout_s = timeout_s
        self._timer = threading.Timer(timeout_s, self._cut)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self.passed = False

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.watch(None)

    def watch(self, connection: socket.socket | None) -> None:
        """Cut this one when the time comes; a copy of it is held."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None if connection is None else connection.dup()
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            if self._connection is not None:
                try:
                    self._connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # it is closed already

    def error(self) -> TimedOut:
        return TimedOut(
            f"no whole answer within {self.timeout_s:g} s",
            where=self._address.shown,
            remedy="see whether the server is overloaded",
        )


def _ask(address: Address, deadline: _Deadline) -> tuple[int, Mapping[str, str], bytes]:
    try:
        with _connected(address, deadline) as connection:
            headers = {"Accept": "text/plain", "User-Agent": f"opsuite/{own_version()}"}
            if address.authorization:
                headers["Authorization"] = address.authorization
            connection.request("GET", address.target, headers=headers)
            with connection.getresponse() as response:
                told = {name.lower(): value for name, value in response.getheaders()}
                body = b"" if response.status in _REDIRECTS else _body(response, address)
            if deadline.passed:
                raise deadline.error()
            return response.status, told, body
    except (OSError, http.client.HTTPException, DataError) as error:
        if deadline.passed or isinstance(error, TimeoutError):
            raise deadline.error() from None
        if isinstance(error, DataError):
            raise
        raise _failure(error, address) from None


@contextmanager
def _connected(address: Address, deadline: _Deadline) -> Iterator[http.client.HTTPConnection]:
    raw = socket.create_connection((address.host, address.port), timeout=deadline.timeout_s)
    try:
        deadline.watch(raw)
        if address.scheme == "https":
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=address.host)
        connection = http.client.HTTPConnection(address.host, address.port)
        connection.sock = raw
        yield connection
    finally:
        raw.close()


def _body(response: http.client.HTTPResponse, address: Address) -> bytes:
    body = response.read(MOST_BYTES + 1) if (response.length or 0) <= MOST_BYTES else None
    if body is None or len(body) > MOST_BYTES:
        raise DataError(f"the answer has more than {MOST_BYTES >> 20} MiB", where=address.shown)
    if response.length:
        raise DataError("the answer is cut off", where=address.shown)
    return body


def _failure(error: Exception, address: Address) -> Unreachable | DataError:
    if isinstance(error, http.client.IncompleteRead):
        return DataError("the answer is cut off", where=address.shown)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(
            f"its certificate is not trusted: {error.verify_message}",
            where=address.shown,
            remedy="set SSL_CERT_FILE to the authority that signed it",
        )
    if isinstance(error, http.client.HTTPException | ssl.SSLError):
        return Unreachable(f"not an HTTP answer: {type(error).__name__}", where=address.shown)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Unreachable(
        f"no server answers: {reason}",
        where=address.shown,
        remedy="check that it runs, and its host and port",
    )


def _follow(address: Address, location: str) -> Address:
    """Where it redirects to, if that is the same server: nothing else gets our key."""
    try:
        parts = urlsplit(urljoin(address.shown, location))
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    same = (parts.scheme, parts.hostname, port) == (address.scheme, address.host, address.port)
    if not same or not _is_sendable(target):
        raise Refused(
            "it redirects to somewhere else, which is not followed",
            where=address.shown,
            remedy="give the address that it redirects to, if you trust it",
        )
    return replace(address, target=target)


def _check_status(address: Address, status: int) -> None:
    if status == http.client.OK:
        return
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise Refused(
            f"it does not let us in ({status})",
            where=address.shown,
            remedy="set OPSUITE_API_KEY to its key, or put user:password@ into the URL",
        )
    if status in (http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED):
        ways = "; ".join(dialect.remedy for dialect in DIALECTS.values())
        raise Refused(
            f"it has no metrics there ({status})",
            where=address.shown,
            remedy=f"switch them on, or give their address ({ways})",
        )
    raise Unreachable(f"it answers with status {status}", where=address.shown)
