"""A reader: the child that runs SQL, so that nothing a query does can stop whoever asked it.

``python -P -m collectors.query.reader DESCRIPTOR MEMORY_BYTES`` serves one question after another
on the socket that it inherits, until the other side closes it or kills the child. It begins with
``{"kind": "ready"}``. Frames in::

    {"snapshot": {...}, "sql": ..., "parameters": [...], "limit": n or null}

where the snapshot is left out if it is the one shown last; frames out: ``{"kind": "rows"}`` with an
Arrow IPC stream of its own as the body, one or more of them, then ``{"kind": "end", "total": n}``;
or an error's header at any point. ``"spent": true`` in the last frame says that the child holds so
much memory that it had better be replaced: allocators do not give all of it back.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from collectors.errors import OpsuiteError, UsageError
from collectors.query.protocol import MAX_BODY, error_header, receive, send
from collectors.query.session import Session, too_much_memory
from collectors.store.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RESULT = 1 << 30
_NICE = 10
_THREADS = 2
_FRAME = 8 << 20
_BASE = 5 << 29  # address space, of which little is used: libraries, DuckDB's reserves


def main(arguments: list[str]) -> None:
    """Serve until the other side is gone."""
    descriptor, memory_bytes = map(int, arguments)
    _limit(memory_bytes)
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_exit_with, args=(connection,), daemon=True).start()
    counted = memory_bytes // 4 * 3  # the rest is for what DuckDB does not count: Arrow, texts
    with Session(memory_bytes=counted, threads=_THREADS) as session:
        send(connection, {"kind": "ready"})
        while (asked := receive(connection)) is not None:
            last = _answer(connection, session, asked[0])
            send(connection, last | {"spent": _is_spent(memory_bytes)})


def _limit(memory_bytes: int) -> None:
    os.nice(_NICE)
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":  # macOS does not bound address space
        limits[resource.RLIMIT_AS] = _BASE + memory_bytes
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def _exit_with(connection: socket.socket) -> None:
    """End in the middle of a query if whoever asked is gone: nobody else would stop it."""
    poll = select.poll()
    poll.register(connection, 0)  # hang-ups are told without being asked for
    poll.poll()
    os._exit(0)


def _is_spent(memory_bytes: int) -> bool:
    """Whether a child keeps much for itself, or has little address space left."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return False  # not Linux, where address space is not bounded either
    size, resident, shared = (int(count) * resource.getpagesize() for count in pages[:3])
    left = _BASE + memory_bytes - size
    return resident - shared > memory_bytes // 2 or left < memory_bytes // 2


def _answer(connection: socket.socket, session: Session, asked: dict[str, Any]) -> dict[str, Any]:
    """Send the rows; returns the last frame's header."""
    try:
        if "snapshot" in asked:
            session.show(Snapshot.from_json(asked["snapshot"]))
        total = _send_rows(connection, session, asked)
    except OpsuiteError as error:
        return error_header(error)
    except MemoryError:
        return error_header(too_much_memory())
    except UnicodeError:
        return error_header(UsageError("the SQL is no Unicode text", where="the SQL"))
    return {"kind": "end", "total": total}


def _send_rows(connection: socket.socket, session: Session, asked: dict[str, Any]) -> int:
    sent = total = 0
    for item in session.stream(asked["sql"], asked["parameters"], asked["limit"]):
        if isinstance(item, int):
            total = item
            continue
        for part in _parts(item):
            body = _ipc(part)
            sent += body.size
            if sent > MAX_RESULT:
                raise _too_large(f"the result is larger than {MAX_RESULT >> 30} GiB")
            send(connection, {"kind": "rows"}, memoryview(body))
    return total


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces that a frame can carry."""
    if batch.nbytes <= _FRAME or batch.num_rows <= 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _ipc(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = sink.getvalue()
    if body.size > MAX_BODY:
        raise _too_large(f"a value is larger than {MAX_BODY >> 20} MiB")
    return body


def _too_large(what: str) -> UsageError:
    return UsageError(
        what, where="the SQL", remedy="aggregate, ask for fewer columns, or add a LIMIT"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
