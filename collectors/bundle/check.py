"""What a bundle from anywhere must be before anything of it is used."""

from __future__ import annotations

import json
import re
import stat
import zipfile
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from collectors.bundle.writer import CONTENTS, MOST_MEMBERS, Member
from collectors.errors import DataError
from collectors.labels import parse_labels
from collectors.manifest import ENDED, read_manifest
from collectors.store.frames import process_id
from collectors.store.seal import decode_seal
from collectors.store.tables import BULK

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.store.seal import Seal, SealedFile

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(
    r"bundle\.json|run\.json|labels\.json|config\.toml"
    r"|logs/[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
    r"|seals/[0-9]{19}-[0-9a-f]{8}\.json"
    rf"|parquet/(?:{'|'.join(BULK)})/run=[A-Za-z0-9._%-]{{1,400}}/host=[A-Za-z0-9._%-]{{1,400}}"
    r"/hour=[0-9]{10}/[0-9]{19}-[0-9a-f]{8}\.parquet"
)
_REQUIRED = {CONTENTS, "run.json", "labels.json", "config.toml"}
_MOST_TEXT = 64 << 20
_MOST_PARQUET = 64 << 30
_MOST_RATIO = 1100  # deflate reaches 1032
_LATEST_NS = 1 << 62  # in the year 2116
_MOST_ROWS = 50_000_000  # of one file; sealing merges up to a few millions
_DEEPEST = 64
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_STATUSES = {*ENDED, "running", "lost"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A bundle's own table."""

    run_id: str
    members: tuple[Member, ...]


def check_archive(archive: zipfile.ZipFile, size: int, where: str) -> dict[str, zipfile.ZipInfo]:
    """The members by name, once all names, kinds and sizes are ones that we write."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise DataError(f"a bundle of {len(infos)} members is none of ours", where=where)
    for info in infos:
        if wrong := _wrong_member(info):
            raise DataError(f"not a bundle: {info.filename[:80]!r} {wrong}", where=where)
    found = {info.filename: info for info in infos}
    if len(found) < len(infos):
        raise DataError("not a bundle: it has two members of one name", where=where)
    if missing := _REQUIRED - found.keys():
        raise DataError(f"not a bundle: {min(missing)} is missing", where=where)
    if sum(info.compress_size for info in infos) > size:
        raise DataError("not a bundle: its members lie upon each other", where=where)
    return found


def _wrong_member(info: zipfile.ZipInfo) -> str:
    """What is wrong with one member's name, kind or size; "" = nothing."""
    parquet = info.filename.endswith(".parquet")
    kind = stat.S_IFMT(info.external_attr >> 16)
    wrong = {
        "is no name of ours": not _NAME.fullmatch(info.orig_filename) or ".." in info.filename,
        "is encrypted": info.flag_bits & 0x1,
        "is no file": kind not in (0, stat.S_IFREG),
        "is packed in another way than ours": info.compress_type
        != (zipfile.ZIP_STORED if parquet else zipfile.ZIP_DEFLATED),
        "is of two sizes": parquet and info.compress_size != info.file_size,
        "is too large": info.file_size > (_MOST_PARQUET if parquet else _MOST_TEXT),
        "grows too much": info.file_size > _MOST_RATIO * max(info.compress_size, 16),
    }
    return next((text for text, is_so in wrong.items() if is_so), "")


def checked_json(text: bytes, where: str) -> Any:  # noqa: ANN401 - any JSON
    """JSON that can be stored: text that is UTF-8, no bottomless nesting, 64-bit integers."""
    try:
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise DataError(f"the bundle has corrupt JSON: {error}", where=where) from error
    _require_storable(data, where, 0)
    return data


def _require_storable(data: Any, where: str, depth: int) -> None:  # noqa: ANN401 - any JSON
    if depth > _DEEPEST:
        raise DataError("the bundle has JSON that is nested too deeply", where=where)
    if isinstance(data, int) and not -(2**63) <= data < 2**63:
        raise DataError("the bundle has an integer of more than 64 bits", where=where)
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    for value in inner:
        _require_storable(value, where, depth + 1)


def check_contents(data: Any, names: set[str], newest: int, where: str) -> Contents:  # noqa: ANN401
    """The table of a bundle; it must be of a known format and list exactly the members."""
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise DataError("not a bundle: its table has no format", where=where)
    if version > newest:
        raise DataError(
            f"a bundle of format {version} (written by opsuite {str(data.get('opsuite'))[:20]}), "
            f"and this version reads up to {newest}",
            where=where,
            remedy="upgrade opsuite",
        )
    run_id, listed = data.get("run_id"), data.get("members")
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise DataError("not a bundle: its run id is none", where=where)
    if not isinstance(listed, list) or not all(map(_is_member, listed)):
        raise DataError("not a bundle: its table is corrupt", where=where)
    members = tuple(Member(**member) for member in listed)
    if len(members) != len(names) - 1 or {one.name for one in members} != names - {CONTENTS}:
        raise DataError("not a bundle: its table is not of its members", where=where)
    return Contents(run_id=run_id, members=members)


def _is_member(data: Any) -> bool:  # noqa: ANN401 - any JSON
    if not isinstance(data, dict) or set(data) != {"name", "bytes", "sha256"}:
        return False
    digest = data["sha256"]
    whole = isinstance(data["name"], str) and type(data["bytes"]) is int and data["bytes"] >= 0
    return whole and isinstance(digest, str) and _SHA256.fullmatch(digest) is not None


def checked_manifest(run: Path, where: str) -> tuple[str, str]:
    """The texts for ``run.json`` and ``labels.json`` here.

    A run that was alive when it was exported is lost here, and one that was pinned there is free.
    """
    try:
        checked_json((run / "run.json").read_bytes(), where)
        manifest = read_manifest(run / "run.json")
        labels = parse_labels((run / "labels.json").read_bytes(), where)
    except DataError as error:
        raise DataError(f"not a bundle: {error.what}", where=where) from error
    texts = [manifest.name, manifest.kind, manifest.host, manifest.version, manifest.boot_id]
    texts += [manifest.notes, *map(str, manifest.command), manifest.git_commit or ""]
    if manifest.status not in _STATUSES or any(map(_CONTROL.search, texts)):
        raise DataError("not a bundle: a strange manifest", where=where)
    if not 0 <= manifest.world_size < 2**31:
        raise DataError("not a bundle: a strange world size", where=where)
    if not all(
        0 <= moment < _LATEST_NS for moment in (manifest.started_ns, manifest.ended_ns or 0)
    ):
        raise DataError("not a bundle: a strange time", where=where)
    status = "lost" if manifest.status == "running" else manifest.status
    text = json.dumps(asdict(replace(manifest, status=status)), indent=2) + "\n"
    return text, json.dumps(replace(labels, pinned=False).to_json()) + "\n"


def check_seal(text: bytes, seal_id: str, run_id: str, where: str) -> Seal:
    """A seal of that run, all of whose files and processes are of that run."""
    checked_json(text, where)
    seal = decode_seal(text.decode(), where=where, run_id=run_id)
    ours = f"/run={quote(run_id, safe='')}/host="
    wrong = seal.seal_id != seal_id
    wrong |= not all(file.path.startswith(f"{file.table}{ours}") for file in seal.files)
    wrong |= any(file.table not in BULK or file.rows < 0 for file in seal.files)
    wrong |= seal.expired < 0 or any(_CONTROL.search(one.host) for one in seal.processes)
    for process in seal.processes:
        wrong |= not 0 <= process.world_size < 2**31 or not -1 < (process.rank or 0) < 2**31
        wrong |= not _are_coordinates(process.coordinates)
        wrong |= process.process != process_id(run_id, process.key)
    if wrong:
        raise DataError(f"not a bundle: the seal {seal_id} is not of this run", where=where)
    return seal


def _are_coordinates(text: str) -> bool:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and all(type(value) is int for value in data.values())


def _read_through(source: pq.ParquetFile, file: SealedFile, where: str) -> None:
    """Decode all of a file, and have its times in a range whose differences do not overflow."""
    for batch in source.iter_batches():
        for name in ("start_ns", "end_ns", "at_ns"):
            if name in batch.schema.names and batch.num_rows:
                bounds = pc.min_max(batch[name]).as_py()
                if bounds["min"] is None or not 0 <= bounds["min"] <= bounds["max"] < _LATEST_NS:
                    raise DataError(f"strange times in {file.path}", where=where)


def check_parquet(parquet: Path, file: SealedFile, where: str) -> None:
    """A sealed file is of its table's schema and has the rows that its seal says."""
    expected = BULK[file.table].schema
    expected = expected.remove(expected.get_field_index("run_id"))
    path = parquet / file.path
    try:
        with pq.ParquetFile(path) as source:
            same = source.schema_arrow.equals(expected)
            rows = source.metadata.num_rows
            if same and rows <= _MOST_ROWS:
                _read_through(source, file, where)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not Parquet: {file.path}: {error}", where=where) from error
    if path.stat().st_size != file.bytes or rows != file.rows or rows > _MOST_ROWS:
        raise DataError(f"{file.path} is not what its seal says", where=where)
    if not same:
        raise DataError(
            f"{file.path} has other columns than this version's table {file.table}",
            where=where,
            remedy="upgrade opsuite, or export it again with this version",
        )
