"""``/metrics`` over HTTP: for Prometheus on this machine, or with a key on others."""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from collectors.errors import OpsuiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_log = logging.getLogger("opsuite")
_MOST_CONNECTIONS = 16
_CONNECTION_S = 15.0  # also of one that speaks slowly
_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer(ThreadingHTTPServer):
    """Serves one page.

    Args:
        listening: a bound socket.
        page: makes the page; an OpsuiteError is told as status 503.
        api_key: asked as ``Authorization: Bearer KEY``; None: of nobody.
        hosts: names that the Host header may give; None: any. On loopback it keeps out web pages
            whose name resolves to 127.0.0.1.
    """

    daemon_threads = True

    def __init__(
        self,
        listening: socket.socket,
        page: Callable[[], bytes],
        *,
        api_key: str | None,
        hosts: Collection[str] | None,
    ) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.page = page
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()
        self._hosts = hosts
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self.server_activate()

    def refusal(self, host: str, authorization: str) -> tuple[HTTPStatus, str] | None:
        """Why a request is not answered; None: it is."""
        if self._hosts is not None and _without_port(host) not in self._hosts:
            return HTTPStatus.BAD_REQUEST, "this host name is not served here"
        given = authorization.encode("latin-1", "replace")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            return HTTPStatus.UNAUTHORIZED, "send `Authorization: Bearer KEY`"
        return None

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        limit = threading.Timer(_CONNECTION_S, _cut, [request])
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Clients that go away in the middle are ordinary."""
        _log.debug("a scrape broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    server_version = "opsuite"
    sys_version = ""
    timeout = 5.0

    def do_GET(self) -> None:
        headers = self.headers
        refusal = self.server.refusal(headers.get("Host", ""), headers.get("Authorization", ""))
        if refusal is not None:
            self._answer(refusal[0], refusal[1].encode())
        elif self.path.partition("?")[0] != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, b"see /metrics")
        else:
            self._answer_page()

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _answer_page(self) -> None:
        try:
            page = self.server.page()
        except OpsuiteError as error:
            _log.warning("a scrape failed: %s", error.what)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, error.what.encode())
        except Exception:  # noqa: BLE001 - a bug: Prometheus hears of it, the next may be well
            _log.exception("a scrape failed")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error")
        else:
            self._answer(HTTPStatus.OK, page, _METRICS)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = _TEXT) -> None:
        body = body if body.endswith(b"\n") else body + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002, ANN401
        _log.debug(format, *arguments)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _without_port(host: str) -> str:
    host = host.lower()
    if host.startswith("["):  # an IPv6 address
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
