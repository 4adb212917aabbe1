"""A disk that is really full: nothing acknowledged is lost, and all goes on when there is space."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from collectors.clock import host_name
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from collectors.store.collector import Collector
from collectors.store.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOUNTABLE = sys.platform == "linux" and os.geteuid() == 0
_SIZE = 24 << 20
_SPANS = 12_000


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    """A home on a file system of 24 MiB of its own."""
    if not _MOUNTABLE:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "opsuite-test", str(disk)]
    made = subprocess.run(mount, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield disk / "home"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Take the space of a disk, apart from ``leave`` bytes."""
    space = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - leave)
    return filler


@pytest.mark.parametrize("leave", [4096, 200_000, 900_000])
def test_reading_and_sealing_wait_for_space(small_home: Path, leave: int) -> None:
    """The disk fills up after recording: somewhere in reading, sealing or indexing it is full."""
    run = RunDirectory.create(
        small_home, name="full", kind="training", command=[], config={}, world_size=1
    )
    identity = Identity(
        run_id=run.run_id, role="trainer", rank=0, world_size=1, host=host_name(), coordinates={}
    )
    recorder = open_recorder(run.spool, identity)
    for step in range(_SPANS):
        recorder.record_span("forward", step, step + 1000 * (step % 97), step)
        recorder.event("odd", attributes={"text": os.urandom(20).hex()}) if step % 4 == 0 else None
    index = Index(small_home)
    collector = Collector(small_home, index)
    filler = fill(small_home.parent, leave=leave)
    with pytest.raises(OSError, match="No space left"):
        for _ in range(8):  # whatever little there is goes to what comes first
            collector.tick()
            collector.seal(force=True)
            recorder.event("more", attributes={"text": os.urandom(8000).hex()})
    filler.unlink()
    collector.tick()
    collector.seal(force=True)
    collector.maintain()
    assert len(index.seals()) == len(list((small_home / "parquet/seals").glob("*/*.json")))
    collector.close()
    index.close()
    recorder.close()
    with Store.open(small_home) as store:
        [answer] = store.rows("SELECT count(*), count(DISTINCT step), max(step) FROM spans")
        assert answer == (_SPANS, _SPANS, _SPANS - 1)
        [(odd,)] = store.rows("SELECT count(*) FROM events WHERE name = 'odd'")
        assert odd == _SPANS // 4
