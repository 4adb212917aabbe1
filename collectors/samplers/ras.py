"""NCCL's own report on a job (RAS, since NCCL 2.24), asked for over TCP.

Each job listens at NCCL_RAS_ADDR, by default localhost:28028. Of several jobs on a host any may
answer at the default, so what is told here is one job's, and the report says of which processes.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from collectors.errors import TimedOut
from collectors.samplers.sampler import Absent

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDRESS = "localhost:28028"
_PROTOCOL = 2
_GREETING = b"SERVER PROTOCOL "
_TIMEOUT_S = 5.0
_MOST_BYTES = 4 << 20
_LONGEST_ANSWER = 4096


def read_ras(environ: Mapping[str, str], *, timeout_s: float = _TIMEOUT_S) -> str:
    """The report, as text for people: what is unresponsive, mismatched, or behind.

    Args:
        environ: of a process of the job.
        timeout_s: for all of it; NCCL itself is told to wait for its peers for half of it.

    Raises:
        Absent: RAS is off, or nothing of the kind listens there.
        TimedOut: it did not answer, or not to the end.
    """
    if environ.get("NCCL_RAS_ENABLE") == "0":
        raise Absent("NCCL's report is off: start the job without NCCL_RAS_ENABLE=0")
    given = environ.get("NCCL_RAS_ADDR") or _ADDRESS
    deadline = time.monotonic() + timeout_s
    try:
        with socket.create_connection(_split(given), timeout=timeout_s) as connection:
            return _converse(connection, given, timeout_s, deadline)
    except TimeoutError:
        raise TimedOut(f"NCCL's report did not come within {timeout_s:g} s", where=given) from None
    except OSError as error:
        raise Absent(
            f"no NCCL report at {given} ({error.strerror or error}): NCCL 2.24 or newer gives it "
            "while a job runs"
        ) from error


def _split(given: str) -> tuple[str, int]:
    host, _, port = given.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise Absent(f"no NCCL report: NCCL_RAS_ADDR={given!r} is no <host>:<port>")
    return host, int(port)


def _converse(connection: socket.socket, given: str, timeout_s: float, deadline: float) -> str:
    connection.sendall(f"CLIENT PROTOCOL {_PROTOCOL}\n".encode())
    if not _line(connection, deadline).upper().startswith(_GREETING):
        raise Absent(f"what listens at {given} is not NCCL's report")
    connection.sendall(f"TIMEOUT {max(1, int(timeout_s / 2))}\n".encode())
    if _line(connection, deadline).strip().upper() != b"OK":
        raise Absent(f"NCCL's report at {given} is of a kind that is not known here")
    connection.sendall(b"VERBOSE STATUS\n")
    return _printable(_rest(connection, deadline))


def _line(connection: socket.socket, deadline: float) -> bytes:
    found = b""
    while not found.endswith(b"\n") and len(found) < _LONGEST_ANSWER:
        piece = _receive(connection, deadline, 256)
        if not piece:
            break
        found += piece
    return found


def _rest(connection: socket.socket, deadline: float) -> bytes:
    pieces, size = [], 0
    while size < _MOST_BYTES:
        piece = _receive(connection, deadline, 1 << 16)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)[:_MOST_BYTES]


def _receive(connection: socket.socket, deadline: float, most: int) -> bytes:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)
    return connection.recv(most)


def _printable(told: bytes) -> str:
    """Text that does nothing to a terminal."""
    text = told.decode("utf-8", "replace").replace("\r\n", "\n")
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
