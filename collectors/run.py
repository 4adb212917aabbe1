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
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from collectors.atomic import write_atomically
from collectors.clock import boot_id, host_name, now_ns
from collectors.errors import DataError, StorageError, Unreachable, UsageError
from collectors.manifest import ENDED, Manifest, read_manifest
from collectors.redaction import redact, redact_command, redact_text
from collectors.toml import toml_document
from collectors.version import own_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger("opsuite")
_NAMED = 8  # runs in an error message
_MANIFEST = "run.json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MAKING_S = 10.0  # another process makes a run: some files


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
    def owned(self) -> bool:
        """Whether this process owns it."""
        owner = (self.manifest.pid, self.manifest.host, self.manifest.boot_id)
        return owner == (os.getpid(), host_name(), boot_id())

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
        run_id: str | None = None,
    ) -> RunDirectory:
        """Begin a run owned by this process.

        Args:
            run_id: of a run that goes on on other hosts, which have homes of their own.

        Raises:
            StorageError: the directory cannot be made; nothing of it is left.
        """
        started_ns = time.time_ns()
        run_id = run_id or _new_id(home, name, started_ns)
        manifest = Manifest(
            run_id=run_id,
            name=name,
            kind=kind,
            command=redact_command(command),
            config=redact(config),
            git_commit=_git_commit(),
            version=own_version(),
            host=host_name(),
            pid=os.getpid(),
            boot_id=boot_id(),
            owned_ns=now_ns(),
            world_size=world_size,
            started_ns=started_ns,
            ended_ns=None,
            status="running",
            exit_code=None,
            notes=redact_text(notes),
        )
        run = cls(home / "runs" / run_id, manifest)
        try:
            run._make()
        except OSError as error:
            if error.filename != str(run.path):  # else it is somebody else's
                shutil.rmtree(run.path, ignore_errors=True)
            raise StorageError.from_os_error(
                error, f"making the run directory {run.path}"
            ) from error
        return run

    @classmethod
    def open(cls, home: Path, reference: str, *, kind: str | None = None) -> RunDirectory:
        """Find a run by its id, by an unambiguous beginning of it, or by "last".

        Args:
            kind: what the run must be, "training" or "serving"; "last" is the last of these.

        Raises:
            Unreachable: there is no such run.
            UsageError: several begin so, or it is of another kind.
            DataError: its manifest is corrupt.
        """
        if reference in _run_names(home):
            run = cls.load(home / "runs" / reference)
            if kind not in (None, run.manifest.kind):
                raise UsageError(
                    f"{run.run_id} is a {run.manifest.kind} run, and this needs a {kind} run",
                    where=str(run.path),
                    remedy="see `opsuite runs list`",
                )
            return run
        runs = [run for run in list_runs(home) if kind in (None, run.manifest.kind)]
        if reference == "last":
            found = runs[:1]
        else:
            found = [run for run in runs if reference and run.run_id.startswith(reference)]
        if not found:
            what = f"run {reference!r}" if kind is None else f"{kind} run {reference!r}"
            raise Unreachable(f"there is no {what}", where=str(home / "runs"), remedy=_known(runs))
        if len(found) > 1:
            raise UsageError(
                f"{reference!r} is the beginning of {len(found)} runs",
                where=str(home / "runs"),
                remedy=f"give one of them: {_listed(found)}",
            )
        return found[0]

    @classmethod
    def join(cls, home: Path, run_id: str, begin: Callable[[str], RunDirectory]) -> RunDirectory:
        """The run of that id; where this host's home has none, ``begin`` makes it for its ranks.

        Raises:
            UsageError: that is no id.
            DataError: its manifest is corrupt.
            StorageError: it cannot be made.
        """
        if not _ID.fullmatch(run_id):
            raise UsageError(f"{run_id!r} is no run", where="OPSUITE_RUN", remedy="unset it")
        path = home / "runs" / run_id
        try:
            return cls.load(path)
        except DataError:
            if path.exists():
                return cls._load_soon(path)
        try:
            return begin(run_id)
        except StorageError:
            if not path.exists():
                raise
            return cls._load_soon(path)  # another rank of this host was first

    @classmethod
    def _load_soon(cls, path: Path) -> RunDirectory:
        """Load what another process is just making."""
        deadline = time.monotonic() + _MAKING_S
        while True:
            try:
                return cls.load(path)
            except DataError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    @classmethod
    def load(cls, path: Path) -> RunDirectory:
        """Read the run at ``path``; DataError where its manifest cannot be used."""
        return cls(path, read_manifest(path / _MANIFEST))

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

    def resize(self, world_size: int) -> None:
        """Say how many ranks the run has, where that was not known at its beginning.

        Raises:
            StorageError: the manifest cannot be written.
        """
        self.manifest = replace(self.manifest, world_size=world_size)
        try:
            self._write_manifest()
        except OSError as error:
            raise StorageError.from_os_error(error, f"sizing the run {self.run_id}") from error

    def adopt(self) -> None:
        """This process owns the run from now on.

        Raises:
            StorageError: the manifest cannot be written.
        """
        self.manifest = replace(
            self.manifest,
            host=host_name(),
            pid=os.getpid(),
            boot_id=boot_id(),
            owned_ns=now_ns(),
            status="running",
        )
        try:
            self._write_manifest()
        except OSError as error:
            raise StorageError.from_os_error(error, f"taking over the run {self.run_id}") from error

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
            owned_ns=now_ns(),
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


def _known(runs: list[RunDirectory]) -> str:
    if not runs:
        return "start one with `opsuite launch`, or set OPSUITE_HOME to where the runs are"
    return f"there are: {_listed(runs)}"


def _listed(runs: list[RunDirectory]) -> str:
    """The newest ones by name."""
    more = " ..." if len(runs) > _NAMED else ""
    return ", ".join(run.run_id for run in runs[:_NAMED]) + more


def _new_id(home: Path, name: str, started_ns: int) -> str:
    """Short enough to be read; so two runs of one second may draw the same, and one draws again."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-") or "run"
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(started_ns / 1e9))
    while True:
        run_id = f"{slug}-{moment}-{secrets.token_hex(2)}"
        if not os.path.lexists(home / "runs" / run_id):  # whatever hinders us, the maker tells
            return run_id


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
