"""NCCL's report over TCP: present, absent, silent, garbage, and far too much."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from collectors.errors import TimedOut
from collectors.samplers.ras import read_ras
from collectors.samplers.sampler import Absent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPORT = "NCCL version 2.27.3\nJob summary\n  Nodes 2\nErrors\n  Rank 5 is unresponsive\n"


@contextmanager
def _listens(answer: Callable[[socket.socket], None]) -> Iterator[dict[str, str]]:
    """A server of one connection; gives the environment that names it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    answer(connection)
                except OSError:
                    return  # the client went away, as it may

        thread = threading.Thread(target=serve)
        thread.start()
        yield {"NCCL_RAS_ADDR": f"127.0.0.1:{server.getsockname()[1]}"}
        thread.join(timeout=10)
        assert not thread.is_alive()


def _greet(connection: socket.socket) -> str:
    """As NCCL does; gives the command."""
    reader = connection.makefile("r")
    assert reader.readline() == "CLIENT PROTOCOL 2\n"
    connection.sendall(b"SERVER PROTOCOL 2\n")
    assert reader.readline().startswith("TIMEOUT ")
    connection.sendall(b"OK\n")
    return reader.readline()


def test_the_report_is_given_and_does_nothing_to_a_terminal() -> None:
    asked = []

    def answer(connection: socket.socket) -> None:
        asked.append(_greet(connection))
        connection.sendall(REPORT[:30].encode())
        time.sleep(0.05)
        connection.sendall(REPORT[30:].encode() + b"\x1b[2J\xff")

    with _listens(answer) as environ:
        assert read_ras(environ) == REPORT + "?[2J\N{REPLACEMENT CHARACTER}"
    assert asked == ["VERBOSE STATUS\n"]


def test_absent_where_nothing_of_the_kind_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Absent, match=r"NCCL 2\.24 or newer"):
        read_ras({"NCCL_RAS_ADDR": f"127.0.0.1:{port}"})
    with pytest.raises(Absent, match="NCCL_RAS_ENABLE=0"):
        read_ras({"NCCL_RAS_ENABLE": "0"})
    with pytest.raises(Absent, match="is no <host>:<port>"):
        read_ras({"NCCL_RAS_ADDR": "localhost"})


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\r\n", b"\x00\xff" * 4000, b""])
def test_absent_where_something_else_listens(said: bytes) -> None:
    with (
        _listens(lambda connection: connection.sendall(said)) as environ,
        pytest.raises(Absent, match=r"is not NCCL's report|no NCCL report"),
    ):
        read_ras(environ)


@pytest.mark.parametrize("slow", [False, True])
def test_one_that_never_ends_its_answer_is_not_waited_for(*, slow: bool) -> None:
    """Silent, or a byte now and then, which would renew a time-out of each read."""
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        while not over.wait(0.05):
            if slow:
                connection.sendall(b"S")

    with _listens(answer) as environ:
        began = time.monotonic()
        with pytest.raises(TimedOut, match=r"within 0\.4 s"):
            read_ras(environ, timeout_s=0.4)
        assert time.monotonic() - began < 3
        over.set()


def test_an_endless_report_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collectors.samplers.ras._MOST_BYTES", 100_000)

    def answer(connection: socket.socket) -> None:
        _greet(connection)
        while True:
            connection.sendall(b"x" * 65536)

    with _listens(answer) as environ:
        assert read_ras(environ) == "x" * 100_000
