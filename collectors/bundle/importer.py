"""Opening a bundle of :mod:`.bundle` that may come from anywhere: all of it or nothing.

Everything is bounded and checked before it counts: the archive's own table, names, sizes, ratios,
checksums, the manifest, the seals, and the schema of every Parquet file. It is unpacked beside the
runs, and appears when the run's directory is renamed into its place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from collectors.atomic import write_atomically
from collectors.bundle.check import (
    check_archive,
    check_contents,
    check_parquet,
    check_seal,
    checked_json,
    checked_manifest,
)
from collectors.bundle.writer import CONTENTS, FORMAT, MOST_MEMBERS, chunks
from collectors.errors import DataError, StorageError, UsageError
from collectors.retention.removal import clear_remains
from collectors.store.parquet import sync
from collectors.store.seal import seals_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.bundle.writer import Member

_MARK = "imported.json"
_STAGING = ".import-"
_ABANDONED_S = 86_400.0
_END = struct.Struct("<4s4H2IH")  # end of central directory: ..., size, offset, comment length
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_SIZE = 20
_MOST_DIRECTORY = 64 << 20
_MOST_CONTENTS = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The run that came in; ``already``: it was here, from the same bundle."""

    run_id: str
    files: int
    rows: int
    already: bool = False


def import_bundle(home: Path, path: Path) -> Imported:
    """Take in a run from a bundle.

    Raises:
        DataError: it is no bundle, damaged, of a later format, or not what it says; nothing of it
            was taken.
        UsageError: the home has another run of that id, or there is no such file.
        StorageError: no space, or not allowed to write.
    """
    try:
        with path.open("rb") as file:
            _require_table(file.fileno(), path)
            with zipfile.ZipFile(file) as archive:
                return _Import(home, path, archive).take()
    except FileNotFoundError as error:
        if error.filename == str(path):
            raise UsageError(
                "there is no such file", where=str(path), remedy="give a bundle"
            ) from error
        raise StorageError.from_os_error(error, f"importing {path}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _damaged(path, str(error)) from error
    except (RuntimeError, ValueError) as error:  # what zipfile says of encrypted or strange members
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise StorageError.from_os_error(error, f"importing {path}") from error


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"not a bundle, or a damaged one: {why}",
        where=str(path),
        remedy="export it again with `opsuite runs export`",
    )


def _require_table(descriptor: int, path: Path) -> None:
    """Bound the archive's table before anything reads it; ours has no comment behind it."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _END.size, max(0, size - _END.size))
    if len(tail) < _END.size or tail[:4] != b"PK\x05\x06":
        raise _damaged(path, "its end is missing")
    fields = _END.unpack(tail)
    count, length = fields[4], fields[5]
    if count == 0xFFFF or length == 0xFFFFFFFF:
        at = size - _END.size - _LOCATOR_SIZE - _END64.size
        record = os.pread(descriptor, _END64.size, max(0, at))
        if len(record) == _END64.size and record[:4] == b"PK\x06\x06":
            count, length = _END64.unpack(record)[7:9]
    if count > MOST_MEMBERS or length > min(size, _MOST_DIRECTORY):
        raise _damaged(path, f"{count} members in a table of {length} bytes are too many")


class _Import:
    """One bundle on its way in."""

    def __init__(self, home: Path, path: Path, archive: zipfile.ZipFile) -> None:
        self._home = home
        self._path = path
        self._where = str(path)
        self._archive = archive

    def take(self) -> Imported:
        infos = check_archive(self._archive, self._path.stat().st_size, self._where)
        text = self._read(infos[CONTENTS], _MOST_CONTENTS)
        contents = check_contents(checked_json(text, self._where), set(infos), FORMAT, self._where)
        run_id, mark = contents.run_id, hashlib.sha256(text).hexdigest()
        if self._is_here(run_id, mark):
            return Imported(run_id=run_id, files=0, rows=0, already=True)
        self._require_space(sum(member.bytes for member in contents.members))
        with self._staging() as staging:
            run, parquet = staging / run_id, staging / "parquet"
            for member in contents.members:
                self._unpack(member, infos[member.name], run, parquet)
            files, rows = self._check(run_id, run, parquet)
            write_atomically(run / _MARK, json.dumps({"format": 1, "sha256": mark}) + "\n")
            with self._alone():
                if self._is_here(run_id, mark):
                    return Imported(run_id=run_id, files=0, rows=0, already=True)
                self._settle(run_id, run, parquet)
        return Imported(run_id=run_id, files=files, rows=rows)

    def _is_here(self, run_id: str, mark: str) -> bool:
        present = self._home / "runs" / run_id
        if not present.exists():
            return False
        try:
            known = json.loads((present / _MARK).read_bytes())
        except (OSError, ValueError):
            known = None
        if isinstance(known, dict) and known.get("sha256") == mark:
            return True
        raise UsageError(
            f"there is a run {run_id} already, and not from this bundle",
            where=str(present),
            remedy=f"remove it first: opsuite runs rm {run_id}",
        )

    def _require_space(self, needed: int) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if needed > shutil.disk_usage(self._home).free:
            raise StorageError(
                f"no space left for the bundle's {needed} bytes",
                where=str(self._home),
                remedy="free space, or set OPSUITE_HOME",
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other imports out meanwhile."""
        runs = self._home / "runs"
        runs.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(runs, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A directory of the same file system, gone afterwards."""
        for left in self._home.glob(f"{_STAGING}*"):  # by imports that were killed
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=self._home) as name:
            yield Path(name)

    def _unpack(self, member: Member, info: zipfile.ZipInfo, run: Path, parquet: Path) -> None:
        inside = member.name.removeprefix("parquet/")
        target = run / inside if inside == member.name else parquet / inside
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with self._archive.open(info) as source, os.fdopen(descriptor, "wb") as file:
            for chunk in chunks(source):  # type: ignore[arg-type]
                size += len(chunk)
                if size > member.bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if size != member.bytes or digest.hexdigest() != member.sha256:
            raise DataError(
                f"the bundle is damaged: {member.name} is not what its checksum says",
                where=self._where,
                remedy="copy or export it again",
            )

    def _read(self, info: zipfile.ZipInfo, most: int) -> bytes:
        with self._archive.open(info) as source:
            text = source.read(most + 1)
        if len(text) > most:
            raise DataError(f"{info.filename} is too large", where=self._where)
        return text

    def _check(self, run_id: str, run: Path, parquet: Path) -> tuple[int, int]:
        """Check manifest, labels, seals and files together; returns (files, recorded rows)."""
        manifest, labels = checked_manifest(run, self._where)
        write_atomically(run / "run.json", manifest)
        write_atomically(run / "labels.json", labels)
        for name in ("spool", "logs", "checkpoints"):
            (run / name).mkdir(mode=0o700, exist_ok=True)
        seals = [
            check_seal(path.read_bytes(), path.stem, run_id, self._where)
            for path in sorted((run / "seals").glob("*.json"))
        ]
        files = [file for seal in seals for file in seal.files]
        there = {path.relative_to(parquet).as_posix() for path in parquet.rglob("*.parquet")}
        if there != {file.path for file in files} or len(there) != len(files):
            raise DataError("the seals do not name the bundle's files", where=self._where)
        for file in files:
            check_parquet(parquet, file, self._where)
        return len(files), sum(file.rows for file in files if file.table != "rollup")

    def _settle(self, run_id: str, run: Path, parquet: Path) -> None:
        """Rename all of it into its place, the run's directory last: with that it is here."""
        clear_remains(self._home, run_id)
        for table in sorted(parquet.glob("*")) if parquet.is_dir() else ():
            name = f"run={quote(run_id, safe='')}"
            self._move(table / name, self._home / "parquet" / table.name / name)
        if (run / "seals").is_dir():
            self._move(run / "seals", seals_directory(self._home / "parquet", run_id))
        self._move(run, self._home / "runs" / run_id)

    def _move(self, source: Path, target: Path) -> None:
        for parent in (target.parent.parent, target.parent):
            parent.mkdir(mode=0o700, exist_ok=True)
        source.rename(target)
        sync(target.parent)
