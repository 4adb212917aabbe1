"""What a client can ask, and the frames that answer it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors.daemon.peers import Role
from collectors.daemon.stacks import take_stacks
from collectors.errors import StorageError, Unreachable, UsageError
from collectors.run import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from collectors.daemon.collection import Collection
    from collectors.daemon.journal import Journal
    from collectors.daemon.server import Frame
    from collectors.query.readers import ReaderPool

_FOR_MEMBERS = ("query", "sql", "status")
_MOST_SQL = 1 << 20
_OLDEST_S = 60.0  # superseded files are kept that long
STALE = "records of the last seconds are missing: see `opsuite collect status`"


class Verbs:
    """Answers requests: ``query``, ``sql``, ``stacks``, ``dump``, ``status`` and ``stop``."""

    def __init__(
        self,
        home: Path,
        collection: Collection,
        readers: ReaderPool,
        journal: Journal,
        *,
        status: Callable[[], dict[str, Any]],
        stop: Callable[[], None],
    ) -> None:
        self._home = home
        self._collection = collection
        self._readers = readers
        self._journal = journal
        self._tell_status = status
        self._stop = stop
        self._verbs: dict[str, Callable[[dict[str, Any]], Iterator[Frame]]] = {
            "query": self._query,
            "sql": self._sql,
            "stacks": self._stacks,
            "dump": self._dump,
            "status": self._status,
            "stop": self._end,
        }

    def answer(self, role: Role, request: dict[str, Any]) -> Iterator[Frame]:
        """The frames that answer ``request``.

        Raises:
            OpsuiteError: it cannot be answered; UsageError where the request is at fault.
        """
        verb = request.get("verb")
        if not isinstance(verb, str) or verb not in self._verbs:
            raise UsageError(
                f"the collector does not know {verb!r}", remedy=f"ask for {', '.join(self._verbs)}"
            )
        if role is not Role.OWNER and verb not in _FOR_MEMBERS:
            raise UsageError(
                f"{verb} is for the collector's owner", remedy=f"ask for {', '.join(_FOR_MEMBERS)}"
            )
        yield from self._verbs[verb](request)

    def _query(self, request: dict[str, Any]) -> Iterator[Frame]:
        sql, parameters = _named(
            _field(request, "view", str), _field(request, "run", str, optional=True)
        )
        yield from self._ask(sql, parameters, request)

    def _sql(self, request: dict[str, Any]) -> Iterator[Frame]:
        parameters = _field(request, "parameters", list, optional=True) or []
        yield from self._ask(_field(request, "sql", str), parameters, request)

    def _ask(self, sql: str, parameters: list[Any], request: dict[str, Any]) -> Iterator[Frame]:
        limit = _field(request, "limit", int, optional=True)
        max_age_s = _field(request, "max_age_s", (int, float), optional=True) or 0.0
        if len(sql) > _MOST_SQL:
            raise UsageError("the SQL is longer than 1 MiB", where="the SQL")
        snapshot, whole = self._collection.snapshot(min(max(max_age_s, 0.0), _OLDEST_S))
        frames = self._readers.ask(snapshot, sql, parameters, limit)
        try:
            first = next(frames)
        except Unreachable:  # it waited too long for a reader, or somebody removed files
            self._collection.repair()
            snapshot, whole = self._collection.snapshot(0.0)
            frames = self._readers.ask(snapshot, sql, parameters, limit)
            first = next(frames)
        for header, body in chain([first], frames):
            last = header.get("kind") == "end" and not whole
            yield ({**header, "warning": STALE} if last else header), body

    def _stacks(self, request: dict[str, Any]) -> Iterator[Frame]:
        run = RunDirectory.open(self._home, _field(request, "run", str))
        yield {"kind": "answer", "stacks": take_stacks(run, self._journal)}, b""

    def _dump(self, request: dict[str, Any]) -> Iterator[Frame]:
        from collectors.bundle.writer import write_bundle

        run = RunDirectory.open(self._home, _field(request, "run", str))
        path = Path(_field(request, "path", str))
        if not path.is_absolute():
            raise UsageError("the path of a dump must be absolute", where=str(path))
        try:
            self._collection.seal_now()
            write_bundle(self._home, run, path)
        except OSError as error:
            raise StorageError.from_os_error(error, f"writing {path}") from error
        yield {"kind": "answer", "run": run.run_id, "path": str(path)}, b""

    def _status(self, _: dict[str, Any]) -> Iterator[Frame]:
        yield {"kind": "answer", **self._tell_status()}, b""

    def _end(self, _: dict[str, Any]) -> Iterator[Frame]:
        try:
            yield {"kind": "answer", "stopping": True}, b""
        finally:  # also where the client did not wait for the answer
            self._stop()


def _named(view: str, run: str | None) -> tuple[str, list[Any]]:
    """The SQL that reads one of our views, of one run or of all."""
    from collectors.query.views import VIEWS

    known = [entry.name for entry in VIEWS]
    if view not in known:
        raise UsageError(f"there is no view {view!r}", remedy=f"ask for {', '.join(known)}")
    if run is None:
        return f'FROM "{view}"', []
    return f'FROM "{view}" WHERE run_id = run_named(?)', [run]


def _field(request: dict[str, Any], name: str, kind: Any, *, optional: bool = False) -> Any:  # noqa: ANN401 - checked here
    """A field of a request, of the type that it must have."""
    value = request.get(name)
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, kind) or (kind is int and value < 0):
        raise UsageError(f"the request's {name!r} is missing or of the wrong type")
    return value
