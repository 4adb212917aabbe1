"""Frames come as they were sent, and nothing else is taken for one."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.daemon.greeting import agree
from collectors.errors import DataError, OpsuiteError, TimedOut, Unreachable, UsageError
from collectors.query.protocol import error_header, receive, send, to_error

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    right.settimeout(5)
    with left, right:
        yield left, right


def test_frames_come_as_they_were_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    body = bytes(range(256)) * 20_000

    def work() -> None:
        send(left, {"a": "ä"}, body)
        send(left, {})
        left.close()

    sender = threading.Thread(target=work)
    sender.start()
    assert receive(right) == ({"a": "ä"}, body)
    assert receive(right) == ({}, b"")
    assert receive(right) is None
    sender.join()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00",
        struct.pack("!IQ", 10, 0) + b"{}",
        struct.pack("!IQ", 2, 5) + b"{}abc",
        struct.pack("!IQ", 2**32 - 1, 0),
        struct.pack("!IQ", 2, 2**64 - 1) + b"{}",
        struct.pack("!IQ", 2, 0) + b"[]",
        struct.pack("!IQ", 2, 0) + b"\xff\xfe",
        struct.pack("!IQ", 0, 0),
        struct.pack("!IQ", 100_000, 0) + b"[" * 100_000,
    ],
)
def test_what_is_no_frame_is_a_data_error(
    pair: tuple[socket.socket, socket.socket], sent: bytes
) -> None:
    left, right = pair
    left.sendall(sent)
    left.shutdown(socket.SHUT_WR)
    with pytest.raises(DataError):
        receive(right)


def test_a_frame_that_drips_is_a_time_out(pair: tuple[socket.socket, socket.socket]) -> None:
    """The limit is for the frame, not for each of its bytes."""
    left, right = pair
    enough = threading.Event()

    def drip() -> None:
        for byte in struct.pack("!IQ", 1000, 0) + b"{" * 1000:
            left.sendall(bytes([byte]))
            if enough.wait(0.02):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        receive(right, timeout_s=0.2)
    assert time.monotonic() - begun < 2
    enough.set()
    thread.join()


@given(st.text(), st.text(), st.text())
def test_errors_survive_the_way(what: str, where: str, remedy: str) -> None:
    error = Unreachable(what, where=where, remedy=remedy)
    back = to_error(error_header(error))
    assert type(back) is Unreachable
    assert (back.what, back.where, back.remedy) == (what, where, remedy)


def test_an_error_of_a_later_version_is_an_error_still() -> None:
    assert type(to_error({"error": {"class": "Melted", "what": "x"}})) is OpsuiteError
    assert type(to_error({"error": 7})) is OpsuiteError


def test_versions_that_differ_say_what_to_do() -> None:
    """Old client and new daemon, new client and old daemon; both sides read the same words."""

    def side(lowest: int, highest: int) -> dict[str, object]:
        return {"protocol": [lowest, highest], "opsuite": f"0.{highest}"}

    assert agree(side(1, 3), side(2, 5)) == 3
    with pytest.raises(UsageError, match="older than the collector") as old_client:
        agree(side(1, 1), side(2, 3))
    assert "upgrade the client" in old_client.value.remedy
    with pytest.raises(UsageError, match="is older than this opsuite") as old_daemon:
        agree(side(2, 3), side(1, 1))
    assert "opsuite collect stop" in old_daemon.value.remedy
    for wrong in ({}, {"protocol": [1]}, {"protocol": [2, 1]}, {"protocol": [True, "1"]}):
        with pytest.raises(DataError):
            agree(wrong, side(1, 1))
