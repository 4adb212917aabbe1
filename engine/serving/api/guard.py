"""What every HTTP request must pass before anything looks at it: Host allow-list and API key."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from engine.serving.api.error import ApiError

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Receive, Scope, Send

_OPEN_PATH = "/health"  # load balancers have no key


class Guard:
    """ASGI middleware.

    Args:
        api_key: asked of every request but ``/health``, as ``Authorization: Bearer KEY``.
        hosts: names that the Host header may give, without port; None takes any. A server on
            loopback needs it against DNS rebinding: a web page whose name resolves to 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, hosts: Collection[str] | None) -> None:
        self._app = app
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        await (error.response() if error else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if self._hosts is not None and not self._host_allowed(_values(scope, b"host")):
            return ApiError(400, "this host name is not served here", code="host_not_allowed")
        if scope["path"] == _OPEN_PATH or self._expected is None:
            return None
        given = _values(scope, b"authorization")
        if len(given) == 1 and hmac.compare_digest(given[0], self._expected):
            return None
        return ApiError(
            401,
            "missing or wrong API key: send `Authorization: Bearer KEY`",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _host_allowed(self, given: list[bytes]) -> bool:
        assert self._hosts is not None
        return len(given) == 1 and _without_port(given[0].decode("latin-1")) in self._hosts


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _without_port(host: str) -> str:
    host = host.lower()
    if host.startswith("["):  # an IPv6 address
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
