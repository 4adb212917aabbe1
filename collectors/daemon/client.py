"""A daemon's client: asks over its socket, and gives answers like a store of this process."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Self

from collectors.daemon.endpoint import Note
from collectors.daemon.greeting import agree, greeting
from collectors.daemon.peers import peer_user
from collectors.errors import DataError, TimedOut, Unreachable, UsageError
from collectors.query.protocol import receive, send, to_error
from collectors.version import own_version

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from collectors.query.source import Answer

_GREETING_S = 10.0
_ANSWER_S = 120.0
_MAX_AGE_S = 0.5


class DaemonClient:
    """A connection to a collector; use it as a context manager, in one thread.

    Its first query sees all that was recorded before; later ones, all but the last half second.
    """

    def __init__(self, connection: socket.socket, where: str) -> None:
        self._connection = connection
        self._where = where
        self._max_age_s = 0.0
        self.daemon: Mapping[str, Any] = {}

    @classmethod
    def connect(cls, path: Path, *, user: int | None = None) -> Self:
        """Connect to the collector that listens at ``path``.

        Args:
            user: whose it must be; None: anybody's.

        Raises:
            Unreachable: nobody listens there, or somebody else.
            TimedOut: it does not answer.
            UsageError: its version and ours have nothing in common, or we may not ask it.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_GREETING_S)
            connection.connect(str(path))
            if user is not None and peer_user(connection) != user:
                raise Unreachable(
                    "somebody else listens at the collector's socket", where=str(path)
                )
            client = cls(connection, str(path))
            client._greet()
        except OSError as error:
            connection.close()
            raise _unreachable(error, path) from error
        except BaseException:
            connection.close()
            raise
        return client

    @classmethod
    def find(cls, home: Path) -> Self | None:
        """Connect to the collector of ``home``; None where none is there.

        Raises:
            TimedOut, UsageError: as :meth:`connect` does.
        """
        note = Note.read(home)
        if note is None:
            return None
        from pathlib import Path

        try:
            return cls.connect(Path(note.socket), user=home.stat().st_uid)
        except Unreachable:
            return None

    def _greet(self) -> None:
        ours = greeting(own_version())
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                send(self._connection, ours)  # who is not let in may find its refusal already
            frame = receive(self._connection, timeout_s=_GREETING_S)
        except TimeoutError:
            raise _silent(self._where) from None
        if frame is None:
            raise ConnectionResetError("closed")
        told = frame[0]
        if "protocol" in told:
            agree(ours, told)
        if "error" in told:
            raise to_error(told)
        self.daemon = told
        self._connection.settimeout(_ANSWER_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    # -- SQL ------------------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        return self._ask({"verb": "sql", "sql": sql, "parameters": list(parameters)}).rows

    def arrays(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
        """The columns of a query of ours; one with NULLs is a masked array."""
        from collectors.query.answers import arrays_of

        answer = self._ask({"verb": "sql", "sql": sql, "parameters": list(parameters)})
        return arrays_of(answer.table)

    def query(self, sql: str, limit: int | None = None) -> Answer:
        """One SELECT of a user, its first rows; UsageError where it is wrong or another thing."""
        return self._ask({"verb": "sql", "sql": sql, "limit": limit})

    def view(self, name: str, run: str | None = None, limit: int | None = None) -> Answer:
        """The first rows of a view, of one run or of all."""
        return self._ask({"verb": "query", "view": name, "run": run, "limit": limit})

    def _ask(self, request: dict[str, Any]) -> Answer:
        from collectors.query.answers import answer_of

        request["max_age_s"], self._max_age_s = self._max_age_s, _MAX_AGE_S
        return answer_of(self._frames(request))

    # -- the other verbs --------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Figures about the daemon: see ``opsuite collect status --json``."""
        return self._call({"verb": "status"})

    def stacks(self, run: str) -> list[dict[str, Any]]:
        """The stacks of a run's processes on this host, one entry a thread; recorded as well."""
        stacks: list[dict[str, Any]] = self._call({"verb": "stacks", "run": run})["stacks"]
        return stacks

    def dump(self, run: str, path: Path) -> None:
        """Have all that is recorded of a run sealed, and a bundle of it written."""
        self._call({"verb": "dump", "run": run, "path": str(path.absolute())})

    def stop(self) -> None:
        """Tell the daemon to seal and end; it does so after the answer."""
        self._call({"verb": "stop"})

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        with contextlib.closing(self._frames(request)) as frames:
            header, _ = next(frames)
        if "error" in header:
            raise to_error(header)
        if header.get("kind") != "answer":
            raise DataError("not the answer of a collector", where=self._where)
        return header

    def _frames(self, request: dict[str, Any]) -> Generator[tuple[dict[str, Any], bytes]]:
        try:
            send(self._connection, request)
            while (frame := receive(self._connection)) is not None:
                yield frame
        except TimeoutError:
            raise _silent(self._where) from None
        except (OSError, DataError) as error:
            raise _hung_up(self._where) from error
        raise _hung_up(self._where)


def _hung_up(where: str) -> Unreachable:
    return Unreachable(
        "the collector has hung up",
        where=where,
        remedy="ask again: where no collector runs, commands read by themselves; "
        "`opsuite collect logs` says why it has ended",
    )


def _silent(where: str) -> TimedOut:
    return TimedOut(
        "the collector does not answer",
        where=where,
        remedy="see `opsuite collect logs`; end it with `opsuite collect stop`: nothing is lost",
    )


def _unreachable(error: OSError, path: Path) -> Unreachable | UsageError:
    if isinstance(error, PermissionError):
        return UsageError(
            "this collector is not open to you",
            where=str(path),
            remedy="ask its owner for `opsuite collect --group NAME`, NAME being one of `id -Gn`",
        )
    return Unreachable(
        "no collector listens there",
        where=str(path),
        remedy="start it with `opsuite collect`",
    )
