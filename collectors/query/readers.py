"""The readers: warm children that run SQL, bounded in time and memory by being killed."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError, OpsuiteError, TimedOut, Unreachable, UsageError
from collectors.query.protocol import receive, send, to_error

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from collectors.store.snapshot import Snapshot

_START_S = 30.0
_END_S = 2.0


class ReaderPool:
    """Answers questions in children that never outlive a question for long. Thread-safe.

    A child that is over its limit, dies, or whose answer nobody reads on is killed, and another
    one takes its place; the next question finds it warm.

    Args:
        size: how many questions are answered at once; others wait their turn.
        wall_limit_s: how long a question may take, with the reading of its answer.
        memory_bytes: what a query may take.
    """

    def __init__(
        self, *, size: int = 2, wall_limit_s: float = 30.0, memory_bytes: int = 2 << 30
    ) -> None:
        self._wall_limit_s = wall_limit_s
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._closed = False
        self._asked = self._killed = 0
        self._idle: queue.LifoQueue[_Reader] = queue.LifoQueue()
        self._readers: set[_Reader] = set()
        for _ in range(size):
            self._begin()

    def ask(
        self,
        snapshot: Snapshot,
        sql: str,
        parameters: Sequence[Any] = (),
        limit: int | None = None,
    ) -> Generator[tuple[dict[str, Any], bytes]]:
        """The frames that answer one SELECT: rows, as the caller takes them, then the end.

        Raises:
            UsageError: the SQL is wrong, another thing, or asks for too much.
            TimedOut: it took too long, or all readers were busy for that time.
            Unreachable: a file of the snapshot is gone; a newer one has its rows.
        """
        reader = self._take()
        watchdog = threading.Timer(self._wall_limit_s, self._expire, [reader])
        watchdog.daemon = True
        watchdog.start()
        fit = ended = False
        try:
            self._put(reader, snapshot, sql, parameters, limit)
            while not ended:
                header, body = self._next(reader)
                ended = "spent" in header
                fit = ended and not header.pop("spent")
                if "error" in header:
                    reader.forget()
                    raise to_error(header)
                yield header, body
        finally:
            watchdog.cancel()
            self._give_back(reader, fit=fit)

    def _put(self, reader: _Reader, *asked: Any) -> None:  # noqa: ANN401 - what ask takes
        try:
            reader.ask(*asked)
        except OSError as error:
            raise self._explain(reader) from error

    def _next(self, reader: _Reader) -> tuple[dict[str, Any], bytes]:
        try:
            return reader.next()
        except (OSError, DataError, EOFError) as error:
            raise self._explain(reader) from error

    def status(self) -> dict[str, Any]:
        """Figures about it, as JSON values."""
        with self._lock:
            return {
                "readers": len(self._readers),
                "idle": self._idle.qsize(),
                "asked": self._asked,
                "killed": self._killed,
            }

    def close(self) -> None:
        """Kill all of them; questions under way end with an error."""
        with self._lock:
            self._closed = True
            readers = list(self._readers)
            self._readers.clear()
        for reader in readers:
            reader.kill()
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _begin(self) -> None:
        """Start one more reader, warming up by itself."""
        with self._lock:
            if self._closed:
                return
            reader = _Reader(self._memory_bytes)
            self._readers.add(reader)
            self._idle.put(reader)

    def _take(self) -> _Reader:
        """An idle reader that is warm; waits for one as long as a question may take."""
        deadline = time.monotonic() + self._wall_limit_s
        while not self._closed:
            try:
                reader = self._idle.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise TimedOut(
                    "all readers are busy with other queries", remedy="ask again in a while"
                ) from None
            if reader.begins():
                self._asked += 1
                return reader
            self._replace(reader)  # killed from outside, or not able to start
            reader.close()
            if time.monotonic() > deadline and not self._closed:
                raise Unreachable("no reader can be started", remedy="see whether memory is left")
        raise Unreachable("the readers were closed")

    def _give_back(self, reader: _Reader, *, fit: bool) -> None:
        if fit and not reader.expired and not self._closed:
            self._idle.put(reader)
        else:
            self._replace(reader)
            reader.close()

    def _expire(self, reader: _Reader) -> None:
        reader.expired = True
        self._replace(reader)

    def _replace(self, reader: _Reader) -> None:
        """Kill a reader and start another one, once."""
        with self._lock:
            if reader not in self._readers:
                return
            self._readers.remove(reader)
            self._killed += 1
        reader.kill()
        self._begin()

    def _explain(self, reader: _Reader) -> OpsuiteError:
        if reader.expired:
            return TimedOut(
                f"the query took longer than {self._wall_limit_s:g} s",
                where="the SQL",
                remedy="filter by run_id and step, or aggregate",
            )
        if self._closed:
            return Unreachable("the readers were closed")
        return UsageError(
            f"the query ended its reader ({reader.end()}): it needs more memory than the"
            f" {self._memory_bytes >> 20} MiB that it is given, or is nested too deeply",
            where="the SQL",
            remedy="filter by run_id, aggregate, or ask for fewer columns",
        )


class _Reader:
    """One child and our end of its socket.

    Attributes:
        expired: whether it was killed for being late.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._socket, theirs = socket.socketpair()
        self._shown: int | None = None
        self._warm = False
        self.expired = False
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "collectors.query.reader"),
                    *(str(theirs.fileno()), str(memory_bytes)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # of a child that is killed nothing is worth reading
                start_new_session=True,  # Ctrl-C is for the one who asked
            )

    def begins(self) -> bool:
        """Wait until it is warm; whether it can be asked."""
        if self._process.poll() is None and not self._warm:
            self._socket.settimeout(_START_S)
            with suppress(OSError, DataError):
                self._warm = receive(self._socket) is not None
            self._socket.settimeout(None)
        return self._warm and self._process.poll() is None

    def ask(
        self, snapshot: Snapshot, sql: str, parameters: Sequence[Any], limit: int | None
    ) -> None:
        """Send it a question; the snapshot only where it is another one."""
        asked: dict[str, Any] = {"sql": sql, "parameters": list(parameters), "limit": limit}
        if snapshot.version != self._shown:
            asked["snapshot"] = snapshot.to_json()
            self._shown = None
        send(self._socket, asked)
        self._shown = snapshot.version

    def next(self) -> tuple[dict[str, Any], bytes]:
        """Its next frame; EOFError where it ended."""
        frame = receive(self._socket)
        if frame is None:
            raise EOFError
        return frame

    def forget(self) -> None:
        """Show it the next question's snapshot, whichever it is."""
        self._shown = None

    def kill(self) -> None:
        """End it, whatever it does; who waits for its answer hears of it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Free our end of its socket; not while another thread reads from it."""
        self._socket.close()

    def end(self) -> str:
        """How it ended."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "it closed its socket"
        return f"signal {-code}" if code < 0 else f"exit code {code}"
