"""Keeps a home to what :mod:`.retention_policy` decides, as ``<home>/collect.toml`` says::

[retention]
keep_days = 30
max_size = "50GB"
run_cap = "10GB"
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from collectors.configuration import Config, load_toml, resolve
from collectors.errors import DataError, OpsuiteError
from collectors.labels import read_labels
from collectors.retention.policy import Batch, Kept, RetentionConfig, plan_retention
from collectors.retention.removal import remove_run, sweep
from collectors.retention.usage import measure_run
from collectors.run import list_runs
from collectors.store.seal import read_seal, seals_directory
from collectors.store.tables import ROLLUP

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from collectors.retention.policy import Plan
    from collectors.run import RunDirectory
    from collectors.store.seal import Seal

_log = logging.getLogger("opsuite")
FILE = "collect.toml"


class CollectConfig(Config):
    """``collect.toml``: how a home is collected."""

    retention: RetentionConfig = Field(default_factory=RetentionConfig)


def load_retention(home: Path) -> RetentionConfig:
    """What ``collect.toml`` says, or the defaults; ConfigError says what is wrong with it."""
    path = home / FILE
    if not path.exists():
        return RetentionConfig()
    return resolve(CollectConfig, [(str(path), load_toml(path))]).value.retention


class Expire(Protocol):
    """Replaces seals of a run by one that has their sums only, and tells how many rows went."""

    def __call__(self, run_id: str, seal_ids: Sequence[str]) -> int: ...


def examine(home: Path, config: RetentionConfig) -> list[Kept]:
    """All runs of a home, as the policy sees them."""
    return [_kept(home, run, config.cap_bytes) for run in list_runs(home)]


def _kept(home: Path, run: RunDirectory, cap: int | None) -> Kept:
    usage = measure_run(home, run.run_id)
    manifest = run.manifest
    batches: tuple[Batch, ...] = ()
    if cap is not None and usage.parquet > cap:
        batches = tuple(_batch(seal) for seal in live_seals(home, run.run_id))
    return Kept(
        run_id=run.run_id,
        bytes=usage.total,
        ended_ns=manifest.ended_ns or manifest.started_ns,
        fixed=manifest.status == "running" or _is_pinned(run),
        batches=batches,
    )


def _is_pinned(run: RunDirectory) -> bool:
    try:
        return read_labels(run.path).pinned
    except DataError as error:
        _log.warning("kept as if it were pinned: %s", error)
        return True


def live_seals(home: Path, run_id: str) -> list[Seal]:
    """A run's seals, the oldest first, without those that others replace."""
    found = []
    for path in sorted(seals_directory(home / "parquet", run_id).glob("*.json")):
        try:
            found.append(read_seal(path))
        except DataError as error:
            _log.warning("left out: %s", error)
    replaced = {old for seal in found for old in seal.replaces}
    return [seal for seal in found if seal.seal_id not in replaced]


def _batch(seal: Seal) -> Batch:
    bulk = [file for file in seal.files if file.table != ROLLUP.name]
    rows, size = sum(file.rows for file in bulk), sum(file.bytes for file in bulk)
    return Batch(seal_id=seal.seal_id, rows=rows, bytes=size)


def apply_plan(home: Path, plan: Plan, expire: Expire | None) -> list[str]:
    """Do what was planned; returns what could not be done. Without ``expire`` nothing is thinned.

    A run that came to life meanwhile, or was pinned, stays.
    """
    failures = []
    for removal in plan.removals:
        try:
            if not _was_pinned(home, removal.run_id):
                remove_run(home, removal.run_id)
        except OpsuiteError as error:
            failures.append(f"{removal.run_id}: {error.what}")
    for thinning in plan.thinnings:
        try:
            if expire is not None:
                expire(thinning.run_id, thinning.seal_ids)
        except OSError as error:
            failures.append(f"{thinning.run_id}: {error.strerror or error}")
    return failures


def _was_pinned(home: Path, run_id: str) -> bool:
    return read_labels(home / "runs" / run_id).pinned


class RetentionKeeper:
    """Applies ``collect.toml`` again and again, in the thread that seals.

    Args:
        expire: :meth:`collectors.store.collector.Collector.thin`.
        every_s: how often.
    """

    def __init__(self, home: Path, expire: Expire, *, every_s: float = 60.0) -> None:
        self._home = home
        self._expire = expire
        self._every_ns = int(every_s * 1e9)
        self._due_ns = 0
        self._told = ""

    def tick(self, now_ns: int) -> Plan | None:
        """Remove and thin what is due; None where it is too early, or the file is wrong."""
        if self._due_ns - self._every_ns <= now_ns < self._due_ns:
            return None
        self._due_ns = now_ns + self._every_ns
        try:
            sweep(self._home)
            config = load_retention(self._home)
            plan = plan_retention(examine(self._home, config), config, now_ns)
        except OpsuiteError as error:
            self._tell(str(error))
            return None
        for removal in plan.removals:
            _log.warning("retention removes the run %s: %s", removal.run_id, removal.why)
        self._tell("; ".join(apply_plan(self._home, plan, self._expire)))
        return plan

    def _tell(self, trouble: str) -> None:
        """Say what went wrong, once."""
        if trouble and trouble != self._told:
            _log.warning("retention: %s", trouble)
        self._told = trouble
