"""A seal: rows of a run in Parquet files, and the record that commits them.

::

    parquet/<table>/run=<id>/host=<collecting host>/hour=<YYYYMMDDHH>/<seal id>.parquet
    parquet/seals/<run id>/<seal id>.json

The Parquet files are written and synced first. What counts is the JSON record: it names the files,
and how far the run's segments were read for them. Its renaming is the commit, so each recorded row
is stored exactly once, whatever interrupts the sealing. A seal may replace others (:attr:`replaces`
names them): these do not count any more, even if a crash left them there.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_type_hints
from urllib.parse import quote

from collectors.atomic import write_atomically
from collectors.clocks.alignment import ClockEstimate
from collectors.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
_ID = re.compile(r"[0-9]{19}-[0-9a-f]{8}")
_PATH = re.compile(r"[a-z]+/run=[^/]+/host=[^/]+/hour=[0-9]{10}/[0-9]{19}-[0-9a-f]{8}\.parquet")


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """A Parquet file.

    Attributes:
        path: inside of the directory ``parquet``.
        bytes: its size.
    """

    table: str
    path: str
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ReadPosition:
    """How far a segment was read.

    Attributes:
        process: number of the process that wrote it; None where its header could not be read.
        position: file offset of the next record.
        finished: nothing more will come.
        dropped: records that its writer had no space for.
    """

    file: str
    process: int | None
    position: int
    finished: bool
    dropped: int


@dataclass(frozen=True, kw_only=True)
class Process:
    """Whoever records; ``opened_ns`` is when it began, ``coordinates`` JSON."""

    process: int
    key: str
    role: str
    rank: int | None
    world_size: int
    host: str
    boot_id: str
    pid: int
    coordinates: str
    opened_ns: int


@dataclass(frozen=True, kw_only=True)
class HostAnchor:
    """Wall clock minus monotonic clock: one for all processes of a run on a host."""

    host: str
    boot_id: str
    offset_ns: int


@dataclass(frozen=True, kw_only=True)
class DamagedStretch:
    """A stretch of a segment that was left out."""

    file: str
    position: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What one sealing made durable of one run.

    Attributes:
        host: the host that sealed.
        sealed_ns: when, by its wall clock.
        clocks: what is known of the hosts' clocks, where there are several.
        expired: rows that retention took out of the run with this seal.
        replaces: ids of seals that this one stands for.
    """

    seal_id: str
    run_id: str
    host: str
    sealed_ns: int
    files: tuple[SealedFile, ...] = ()
    positions: tuple[ReadPosition, ...] = ()
    processes: tuple[Process, ...] = ()
    anchors: tuple[HostAnchor, ...] = ()
    damage: tuple[DamagedStretch, ...] = ()
    clocks: tuple[ClockEstimate, ...] = ()
    expired: int = 0
    replaces: tuple[str, ...] = ()
    format: int = field(default=FORMAT)

    @property
    def rows(self) -> int:
        """How many rows its files have."""
        return sum(file.rows for file in self.files)

    def encode(self) -> str:
        """As JSON text."""
        return json.dumps(self, default=vars, separators=(",", ":")) + "\n"


def new_seal_id(wall_ns: int) -> str:
    """An id that sorts by time."""
    return f"{wall_ns:019d}-{secrets.token_hex(4)}"


def seals_directory(parquet: Path, run_id: str) -> Path:
    """Where a run's seals are."""
    return parquet / "seals" / run_id


def commit_seal(parquet: Path, seal: Seal) -> None:
    """Write the record that makes the seal's files count; OSError: it does not count."""
    directory = seals_directory(parquet, seal.run_id)
    for made in (parquet, directory.parent, directory):
        made.mkdir(mode=0o700, exist_ok=True)
    write_atomically(directory / f"{seal.seal_id}.json", seal.encode())


def read_seal(path: Path) -> Seal:
    """Read a seal with care; DataError names the file and what is wrong with it."""
    try:
        return decode_seal(
            path.read_text(encoding="utf-8"), where=str(path), run_id=path.parent.name
        )
    except OSError as error:
        raise DataError(f"a seal cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("a seal is no text", where=str(path)) from error


def decode_seal(text: str, *, where: str, run_id: str) -> Seal:
    """The seal in a JSON text; DataError unless it is a whole one of that run."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a corrupt seal: {error}", where=where) from error
    if not isinstance(data, dict) or type(data.get("format")) is not int:
        raise DataError("not a seal", where=where)
    if data["format"] > FORMAT:
        raise DataError(
            f"a seal of format {data['format']}, and this version reads up to {FORMAT}",
            where=where,
            remedy="upgrade opsuite",
        )
    seal = _decode(Seal, data, where)
    assert isinstance(seal, Seal)
    _check(seal, run_id, where)
    return seal


def _check(seal: Seal, run_id: str, where: str) -> None:
    wrong = ""
    if seal.run_id != run_id or not _ID.fullmatch(seal.seal_id):
        wrong = "it is not the seal that its path says"
    for file in seal.files:
        place = f"{file.table}/run={quote(run_id, safe='')}/"
        if not _PATH.fullmatch(file.path) or not file.path.startswith(place):
            wrong = f"a strange path: {file.path[:80]!r}"
    if wrong:
        raise DataError(f"a corrupt seal: {wrong}", where=where)


_PARTS: dict[str, type] = {
    "files": SealedFile,
    "positions": ReadPosition,
    "processes": Process,
    "anchors": HostAnchor,
    "damage": DamagedStretch,
    "clocks": ClockEstimate,
    "replaces": str,
}


def _decode(kind: type, data: Any, where: str) -> Any:  # noqa: ANN401 - any JSON
    """A dataclass of ours from JSON, each field of its type."""
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind, globals())
    hints = _HINTS[kind]
    if not isinstance(data, dict) or set(data) != set(hints):
        raise DataError(f"a corrupt seal: not the fields of a {kind.__name__}", where=where)
    values = {}
    for name, hint in hints.items():
        value = data[name]
        if name in _PARTS and kind is Seal:
            value = tuple(_decode_part(name, item, where) for item in _a_list(name, value, where))
        elif not isinstance(value, hint) or (type(value) is bool and hint is not bool):
            raise DataError(f"a corrupt seal: {name} is of the wrong type", where=where)
        values[name] = value
    return kind(**values)


def _a_list(name: str, value: Any, where: str) -> list[Any]:  # noqa: ANN401 - any JSON
    if not isinstance(value, list):
        raise DataError(f"a corrupt seal: {name} is no list", where=where)
    return value


def _decode_part(name: str, item: Any, where: str) -> Any:  # noqa: ANN401 - any JSON
    if name != "replaces":
        return _decode(_PARTS[name], item, where)
    if not isinstance(item, str) or not _ID.fullmatch(item):
        raise DataError("a corrupt seal: it replaces what is no seal", where=where)
    return item


_HINTS: dict[type, dict[str, Any]] = {}
