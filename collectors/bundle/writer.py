"""A bundle: one run in one file, for another machine to open and diagnose.

A ZIP file (Parquet is stored in it, the rest compressed)::

    run.json  labels.json  config.toml      as in the run's directory, without secrets
    logs/<name>                             the end of each, without secrets
    seals/<seal id>.json                    what names the sealed files, and who recorded
    parquet/<table>/run=.../host=.../hour=.../<seal id>.parquet
    bundle.json                             format, run id; name, size and SHA-256 of each member

Checkpoints are not in it. See :mod:`.bundle_import` for the way back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError, StorageError, UsageError
from collectors.labels import read_labels
from collectors.redaction import redact, redact_command, redact_text
from collectors.retention.keeper import live_seals
from collectors.toml import toml_document
from collectors.version import own_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from collectors.run import RunDirectory
    from collectors.store.seal import Seal

FORMAT = 1
SUFFIX = ".opsuite.zip"
CONTENTS = "bundle.json"
MOST_MEMBERS = 100_000
MOST_LOGS = 1000
LOG_BYTES = 1 << 20
ALL_LOG_BYTES = 64 << 20
LOG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of all members, so that equal runs make equal bundles
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a bundle."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """What was written: ``rows`` of how many ``files``, and the size of it all."""

    path: str
    run_id: str
    bytes: int
    files: int
    rows: int


def write_bundle(home: Path, run: RunDirectory, path: Path) -> Bundled:
    """Write what is sealed of a run into ``path``; it is there whole or not at all.

    Seal first: what is only in the run's spool is not in the bundle.

    Raises:
        UsageError: ``path`` exists.
        StorageError: it cannot be written.
        DataError: the run's files cannot be read.
    """
    if path.exists():
        raise UsageError(
            "the file exists", where=str(path), remedy="remove it, or name another with -o"
        )
    for attempt in range(_ATTEMPTS):
        seals = live_seals(home, run.run_id)
        try:
            return _write(home, run, seals, path)
        except FileNotFoundError as error:
            if not path.parent.is_dir():
                raise StorageError.from_os_error(error, f"writing the bundle {path}") from error
            if attempt == _ATTEMPTS - 1:  # merged or thinned meanwhile, again and again
                raise DataError(
                    "a sealed file is missing", where=str(error.filename), remedy="try again"
                ) from error
        except OSError as error:
            raise StorageError.from_os_error(error, f"writing the bundle {path}") from error
    raise AssertionError("unreachable")


def _write(home: Path, run: RunDirectory, seals: list[Seal], path: Path) -> Bundled:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w+b") as file:
            with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
                _Writer(archive).write(home, run, seals)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    files = [file for seal in seals for file in seal.files]
    return Bundled(
        path=str(path),
        run_id=run.run_id,
        bytes=path.stat().st_size,
        files=len(files),
        rows=sum(file.rows for file in files if file.table != "rollup"),
    )


class _Writer:
    """Adds members, and the table of them at the end."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: list[Member] = []

    def write(self, home: Path, run: RunDirectory, seals: list[Seal]) -> None:
        """Everything of a run."""
        self._add_text("run.json", _json(_manifest(run)))
        self._add_text("labels.json", _json(read_labels(run.path).to_json()))
        self._add_text("config.toml", toml_document(redact(run.manifest.config)))
        for name, text in _logs(run):
            self._add_text(f"logs/{name}", text)
        for seal in seals:
            for sealed in seal.files:
                self._add_file(f"parquet/{sealed.path}", home / "parquet" / sealed.path)
            self._add_text(f"seals/{seal.seal_id}.json", seal.encode())
        if len(self._members) >= MOST_MEMBERS:
            raise DataError(f"the run has more than {MOST_MEMBERS} files", where=run.run_id)
        contents = {
            "format": FORMAT,
            "opsuite": own_version(),
            "run_id": run.run_id,
            "members": [asdict(member) for member in self._members],
        }
        self._add_text(CONTENTS, _json(contents))

    def _add_text(self, name: str, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        self._archive.writestr(_info(name, zipfile.ZIP_DEFLATED), data)
        digest = hashlib.sha256(data).hexdigest()
        self._members.append(Member(name=name, bytes=len(data), sha256=digest))

    def _add_file(self, name: str, path: Path) -> None:
        digest, size = hashlib.sha256(), 0
        info = _info(name, zipfile.ZIP_STORED)
        with path.open("rb") as source:
            info.file_size = os.fstat(source.fileno()).st_size
            with self._archive.open(info, "w", force_zip64=info.file_size >= 1 << 31) as target:
                for chunk in chunks(source):
                    digest.update(chunk)
                    size += len(chunk)
                    target.write(chunk)
        self._members.append(Member(name=name, bytes=size, sha256=digest.hexdigest()))


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, a MiB at a time."""
    while chunk := file.read(_CHUNK):
        yield chunk


def _info(name: str, how: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = how
    info.external_attr = 0o100600 << 16
    return info


def _manifest(run: RunDirectory) -> dict[str, Any]:
    data = asdict(run.manifest)
    data["command"] = redact_command(run.manifest.command)
    data["config"] = redact(run.manifest.config)
    return data


def _logs(run: RunDirectory) -> Iterator[tuple[str, str]]:
    """Names and the last MiB of the run's logs, as far as these have room."""
    left = ALL_LOG_BYTES
    try:
        paths = sorted(path for path in run.logs.iterdir() if LOG_NAME.fullmatch(path.name))
    except FileNotFoundError:
        return
    for path in paths[:MOST_LOGS]:
        if path.is_symlink() or not path.is_file() or left <= 0:
            continue
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size - LOG_BYTES)
            file.seek(start)
            text = file.read(LOG_BYTES).decode("utf-8", "replace")
        if start:
            text = f"[{start} bytes before this are left out]\n{text.partition(chr(10))[2]}"
        left -= len(text)
        yield path.name, redact_text(text)


def _json(data: Any) -> str:  # noqa: ANN401 - any JSON
    return json.dumps(data, indent=1, default=str) + "\n"
