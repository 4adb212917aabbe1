"""A run's directory: its manifest, configuration, spool, logs and checkpoints.

::

    <home>/runs/<run_id>/run.json  config.toml  spool/  logs/  checkpoints/
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from collectors.atomic import write_atomically
from collectors.clock import boot_id, host_name, process_lives
from collectors.errors import DataError, StorageError, Unreachable, UsageError
from collectors.redaction import redact, redact_command
from collectors.toml import toml_document

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("opsuite")
_MANIFEST = "run.json"
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


class RunDirectory:
    """One run on disk. Make one with :meth:`create`, find one with :meth:`open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def run_id(self) -> str:
        """The run's name, date, time and four random digits."""
        return self.manifest.run_id

    @property
    def spool(self) -> Path:
        """Where its processes record."""
        return self.path / "spool"

    @property
    def logs(self) -> Path:
        """Where its processes' output goes."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Where its models go."""
        return self.path / "checkpoints"

    @classmethod
    def create(
        cls,
        home: Path,
        *,
        name: str,
        kind: str,
        command: list[str],
        config: dict[str, Any],
        world_size: int,
        notes: str = "",
    ) -> RunDirectory:
        """Begin a run owned by this process.

        Raises:
            StorageError: the directory cannot be made; nothing of it is left.
        """
        started_ns = time.time_ns()
        run_id = _new_id(name, started_ns)
        manifest = Manifest(
            run_id=run_id,
            name=name,
            kind=kind,
            command=redact_command(command),
            config=redact(config),
            git_commit=_git_commit(),
            version=_version(),
            host=host_name(),
            pid=os.getpid(),
            boot_id=boot_id(),
            world_size=world_size,
            started_ns=started_ns,
            ended_ns=None,
            status="running",
            exit_code=None,
            notes=notes,
        )
        run = cls(home / "runs" / run_id, manifest)
        try:
            run._make()
        except OSError as error:
            shutil.rmtree(run.path, ignore_errors=True)
            raise StorageError.from_os_error(
                error, f"making the run directory {run.path}"
            ) from error
        return run

    @classmethod
    def open(cls, home: Path, reference: str) -> RunDirectory:
        """Find a run by its id, by an unambiguous beginning of it, or by "last".

        Raises:
            Unreachable: there is no such run.
            UsageError: several begin so.
            DataError: its manifest is corrupt.
        """
        names = _run_names(home)
        if reference == "last" and names:
            found = [run.path.name for run in list_runs(home)[:1]]
        else:
            exact = [name for name in names if name == reference]
            found = exact or [name for name in names if reference and name.startswith(reference)]
        if not found:
            raise Unreachable(
                f"there is no run {reference!r}", where=str(home / "runs"), remedy=_known(names)
            )
        if len(found) > 1:
            raise UsageError(
                f"{reference!r} is the beginning of {len(found)} runs",
                where=str(home / "runs"),
                remedy=f"give one of them: {', '.join(sorted(found)[:8])}",
            )
        return cls.load(home / "runs" / found[0])

    @classmethod
    def load(cls, path: Path) -> RunDirectory:
        """Read the run at ``path``; DataError where its manifest cannot be used."""
        return cls(path, _with_fate(_read_manifest(path / _MANIFEST)))

    def finish(self, status: str, exit_code: int) -> None:
        """Say how the run ended: "finished", "failed" or "interrupted".

        Raises:
            StorageError: the manifest cannot be written.
        """
        assert status in ENDED, status
        self.manifest = replace(
            self.manifest, status=status, exit_code=exit_code, ended_ns=time.time_ns()
        )
        try:
            self._write_manifest()
        except OSError as error:
            raise StorageError.from_os_error(error, f"finishing the run {self.run_id}") from error

    def reopen(self, *, command: list[str], config: dict[str, Any], world_size: int) -> None:
        """Go on with a run that has ended, owned by this process from now on.

        Raises:
            UsageError: it is still running.
            StorageError: its files cannot be written.
        """
        if self.manifest.status == "running":
            raise UsageError(
                f"the run {self.run_id} is still running",
                where=f"process {self.manifest.pid} on {self.manifest.host}",
                remedy="stop it, or wait for its end",
            )
        self.manifest = replace(
            self.manifest,
            command=redact_command(command),
            config=redact(config),
            world_size=world_size,
            host=host_name(),
            pid=os.getpid(),
            boot_id=boot_id(),
            ended_ns=None,
            status="running",
            exit_code=None,
        )
        try:
            write_atomically(self.path / "config.toml", toml_document(self.manifest.config))
            self._write_manifest()
        except OSError as error:
            raise StorageError.from_os_error(error, f"reopening the run {self.run_id}") from error

    def _make(self) -> None:
        runs = self.path.parent
        for directory in (runs.parent, runs):  # mkdir's parents=True forgets the mode
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        for directory in (self.spool, self.logs, self.checkpoints):
            directory.mkdir(mode=0o700)
        write_atomically(self.path / "config.toml", toml_document(self.manifest.config))
        self._write_manifest()

    def _write_manifest(self) -> None:
        text = json.dumps(asdict(self.manifest), indent=2, default=str)
        write_atomically(self.path / _MANIFEST, text + "\n")


def list_runs(home: Path) -> list[RunDirectory]:
    """All runs, the newest first; one whose manifest cannot be read is left out with a warning."""
    runs = []
    for name in _run_names(home):
        try:
            runs.append(RunDirectory.load(home / "runs" / name))
        except DataError as error:
            _log.warning("skipped: %s", error)
    return sorted(runs, key=lambda run: (run.manifest.started_ns, run.run_id), reverse=True)


def _run_names(home: Path) -> list[str]:
    try:
        entries = list(os.scandir(home / "runs"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.from_os_error(error, "listing the runs") from error
    return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _known(names: list[str]) -> str:
    if not names:
        return "start one with `opsuite launch`, or set OPSUITE_HOME to where the runs are"
    return f"there are: {', '.join(sorted(names)[:8])}{' ...' if len(names) > 8 else ''}"


def _new_id(name: str, started_ns: int) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-") or "run"
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(started_ns / 1e9))
    return f"{slug}-{moment}-{secrets.token_hex(2)}"


def _read_manifest(path: Path) -> Manifest:
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
    return Manifest(**{field.name: data[field.name] for field in fields(Manifest)})


_OPTIONAL = {"git_commit": str, "ended_ns": int, "exit_code": int}
_TYPES = {"command": list, "config": dict} | dict.fromkeys(("pid", "world_size", "started_ns"), int)


def _wrong_field(data: dict[str, Any]) -> str:
    """Which field of a manifest is missing or of the wrong type; "" = none."""
    for name in (field.name for field in fields(Manifest)):
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
    same_boot = manifest.boot_id == boot_id()
    if same_boot and process_lives(manifest.pid, since_ns=manifest.started_ns):
        return manifest
    return replace(manifest, status="lost")


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=2.0,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _version() -> str:
    try:
        return metadata.version("opsuite")
    except metadata.PackageNotFoundError:
        return "unknown"
