"""Whatever comes over the socket, the next one is answered."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from collectors.daemon import server as server_module
from collectors.daemon.client import DaemonClient
from collectors.daemon.endpoint import listen
from collectors.daemon.greeting import greeting
from collectors.daemon.peers import Role, role_of
from collectors.daemon.server import MOST_CONNECTIONS, Server
from collectors.errors import OpsuiteError, TimedOut, Unreachable, UsageError
from collectors.query.protocol import receive, send, to_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collectors.daemon.server import Frame

BODY = b"x" * (1 << 20)


def answer(role: Role, request: dict[str, Any]) -> Iterator[Frame]:
    """A few verbs: one that is answered, one that is endless, two that fail."""
    if request.get("verb") == "status":
        yield {"kind": "answer", "role": role.value}, b""
    elif request.get("verb") == "flood":
        while True:
            yield {"kind": "rows"}, BODY
    elif request.get("verb") == "wrong":
        yield {"kind": "rows"}, b""
        raise UsageError("no such thing")
    else:
        raise ZeroDivisionError("a bug")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(server_module, "_MESSAGE_S", 0.3)
    monkeypatch.setattr(server_module, "_READ_S", 0.5)
    served = Server(answer, version="0", group=None)
    served.serve(listen(tmp_path / "s" / "x.sock", None))
    yield served
    served.close()


@pytest.fixture
def path(server: Server, tmp_path: Path) -> Path:
    return tmp_path / "s" / "x.sock"


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


def greet(path: Path) -> socket.socket:
    connection = connect(path)
    send(connection, greeting("0"))
    assert receive(connection)
    return connection


def is_well(path: Path, server: Server) -> None:
    """It answers, and has nobody but us."""
    begun = time.monotonic()
    with DaemonClient.connect(path) as client:
        assert client.status()["role"] == "owner"
    assert time.monotonic() - begun < 4, "it waited for somebody"
    deadline = time.monotonic() + 5
    while server.connections:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\x00",
        struct.pack("!IQ", 2**32 - 1, 2**64 - 1),
        struct.pack("!IQ", 5_000_000, 0) + b"x" * 100_000,
        struct.pack("!IQ", 2, 100) + b"{}" + b"x" * 100,
        struct.pack("!IQ", 100, 0) + b'{"protocol": ',
        struct.pack("!IQ", 17, 0) + b'{"protocol": "x"}',
    ],
)
@pytest.mark.parametrize("greeted", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_hostile_bytes(
    path: Path, server: Server, sent: bytes, *, greeted: bool, leaves: bool
) -> None:
    """Garbage, cut and promised frames, from clients that stay and from those that leave."""
    connection = greet(path) if greeted else connect(path)
    with connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may be thrown out halfway
            connection.sendall(sent)
        if not leaves:
            time.sleep(0.05)
            with DaemonClient.connect(path) as other:
                assert other.status()["role"] == "owner"
    is_well(path, server)


def test_a_client_that_does_not_read_is_left(path: Path, server: Server) -> None:
    with greet(path) as connection:
        send(connection, {"verb": "flood"})
        time.sleep(0.2)
        assert server.idle_s == 0.0
        is_well(path, server)


def test_a_client_that_leaves_in_an_answer(path: Path, server: Server) -> None:
    connection = greet(path)
    send(connection, {"verb": "flood"})
    connection.recv(10_000)
    connection.close()
    is_well(path, server)


def test_errors_are_answers_and_the_connection_goes_on(path: Path, server: Server) -> None:
    with DaemonClient.connect(path) as client:
        with pytest.raises(UsageError, match="no such thing"):
            list(_frames(client, "wrong"))
        with pytest.raises(OpsuiteError, match="internal error: ZeroDivisionError"):
            client.stop()
        assert client.status()["role"] == "owner"
    assert server.failures == 1


def _frames(client: DaemonClient, verb: str) -> Iterator[dict[str, Any]]:
    for header, _ in client._frames({"verb": verb}):
        if "error" in header:
            raise to_error(header)
        yield header


def test_too_many_clients_are_told_so(path: Path, server: Server) -> None:
    held = [greet(path) for _ in range(MOST_CONNECTIONS)]
    with pytest.raises(TimedOut, match="too many clients"):
        DaemonClient.connect(path)
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 5
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    is_well(path, server)


def test_other_versions_are_told_what_to_do(
    path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of another version reads the same words that the daemon sends."""
    for ours, text in (([0, 0], "upgrade the client"), ([7, 9], "opsuite collect stop")):
        with connect(path) as connection:
            send(connection, {"protocol": ours, "opsuite": "9"})
            frame = receive(connection)
            assert frame is not None
            assert frame[0]["protocol"] == [1, 1]
            assert text in to_error(frame[0]).remedy
        monkeypatch.setattr(
            "collectors.daemon.client.greeting", lambda v, r=ours: {"protocol": r, "opsuite": v}
        )
        with pytest.raises(UsageError) as error:
            DaemonClient.connect(path)
        assert text in error.value.remedy


def test_a_server_that_closes_hangs_up(path: Path, server: Server) -> None:
    client = DaemonClient.connect(path)
    threading.Timer(0.1, server.close).start()
    with client, pytest.raises(Unreachable, match="hung up"):
        while True:
            client.status()
    with pytest.raises(Unreachable):
        DaemonClient.connect(path)


def test_a_server_that_drains_answers_who_is_there(path: Path, server: Server) -> None:
    with DaemonClient.connect(path) as client:
        thread = threading.Thread(target=server.drain, args=[5.0])
        thread.start()
        time.sleep(0.1)
        assert client.status()["role"] == "owner"
        thread.join()
        with pytest.raises(Unreachable):
            DaemonClient.connect(path)


def test_roles() -> None:
    assert role_of(os.geteuid(), None) is Role.OWNER
    assert role_of(0, None) is Role.OWNER
    assert role_of(4_000_000, 0) is Role.STRANGER
