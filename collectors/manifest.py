"""The manifest of a run: what it is, who owns it, and how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from collectors.clock import boot_id, host_name, process_lives, process_lives_since
from collectors.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

ENDED = ("finished", "failed", "interrupted")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run is and how it ended.

    Attributes:
        run_id: name, date, time and four random digits.
        kind: "training" or "serving".
        command, config: as given, without secrets.
        git_commit: of the directory it was started in; None outside of a repository.
        version: of opsuite.
        host, pid, boot_id: the process that owns the run.
        owned_ns: when it took the run, by the monotonic clock of that boot; None where an earlier
            version did not say.
        started_ns, ended_ns: wall clock.
        status: "running", "finished", "failed" or "interrupted"; "lost" where the owner is gone
            without having said how it ended.
        exit_code: None until it ended.
    """

    run_id: str
    name: str
    kind: str
    command: list[str]
    config: dict[str, Any]
    git_commit: str | None
    version: str
    host: str
    pid: int
    boot_id: str
    world_size: int
    started_ns: int
    ended_ns: int | None
    status: str
    exit_code: int | None
    notes: str
    owned_ns: int | None = None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest with care; DataError names the file and what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no manifest: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"a corrupt manifest: {error}", where=str(path)) from error
    wrong = _wrong_field(data) if isinstance(data, dict) else "no table"
    if wrong or data["run_id"] != path.parent.name:
        raise DataError(
            f"a corrupt manifest: {wrong or 'the run_id is not the directory’s name'}",
            where=str(path),
            remedy="move the run's directory away, or repair the file",
        )
    return _with_fate(Manifest(**{name: data.get(name) for name in _NAMES}))


_NAMES = tuple(field.name for field in fields(Manifest))
_LATER = ("owned_ns",)  # what manifests of earlier versions lack
_OPTIONAL = {"git_commit": str, "ended_ns": int, "exit_code": int, "owned_ns": int}
_TYPES = {"command": list, "config": dict} | dict.fromkeys(("pid", "world_size", "started_ns"), int)


def _wrong_field(data: dict[str, Any]) -> str:
    """Which field of a manifest is missing or of the wrong type; "" = none."""
    for name in _NAMES:
        if name not in data and name in _LATER:
            continue
        if name not in data:
            return f"{name} is missing"
        if data[name] is None and name in _OPTIONAL:
            continue
        if type(data[name]) is not (_OPTIONAL | _TYPES).get(name, str):
            return f"{name} is of the wrong type"
    return ""


def _with_fate(manifest: Manifest) -> Manifest:
    """A run that says it is running, and whose owner on this host is gone, is lost."""
    if manifest.status != "running" or manifest.host != host_name():
        return manifest
    if manifest.boot_id == boot_id() and _owner_lives(manifest):
        return manifest
    return replace(manifest, status="lost")


def _owner_lives(manifest: Manifest) -> bool:
    if manifest.owned_ns is None:
        return process_lives(manifest.pid, since_ns=manifest.started_ns)
    return process_lives_since(manifest.pid, manifest.owned_ns)
