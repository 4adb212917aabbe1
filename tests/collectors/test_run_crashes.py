"""kill -9 at every step of an import and of a removal: whole or not at all, and the next try works.

Real processes kill themselves in front of the n-th file operation that matters.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collectors.bundle.importer import import_bundle
from collectors.query.direct import Store
from collectors.retention.removal import sweep
from collectors.run import list_runs

SHIPPED = Path(__file__).parents[1] / "formats" / "bundle-v1" / "run.opsuite.zip"
MOVES = 7  # of an import: five tables, the seals, the run's directory

_DIE = """
import os, signal, sys
from pathlib import Path
count = 0
def deadly(act, last):
    def wrapped(*arguments):
        global count
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return act(*arguments)
    return wrapped
home, last = Path(sys.argv[1]), int(sys.argv[2])
"""
_IMPORT = f"""{_DIE}
from collectors.bundle import importer
moved = importer._Import._move
importer._Import._move = deadly(moved, last)
importer.import_bundle(home, Path(sys.argv[3]))
"""
_REMOVE = f"""{_DIE}
from collectors.retention import removal
removal._remove = deadly(removal._remove, last)
removal.remove_run(home, sys.argv[3])
"""


def run_until_killed(code: str, home: Path, last: int, argument: object) -> bool:
    """Whether it killed itself before it came to its end."""
    command = [sys.executable, "-c", code, str(home), str(last), str(argument)]
    ended = subprocess.run(command, check=False, timeout=60)
    assert ended.returncode in (0, -signal.SIGKILL)
    return ended.returncode != 0


def spans(home: Path) -> int:
    with Store.open(home) as store:
        return int(store.rows("SELECT count(*) FROM spans")[0][0])


@pytest.mark.parametrize("last", [0, 2, MOVES - 2, MOVES - 1, MOVES])
def test_an_import_is_whole_or_not_at_all(home: Path, last: int) -> None:
    killed = run_until_killed(_IMPORT, home, last, SHIPPED)
    assert killed == (last < MOVES)
    assert len(list_runs(home)) == (0 if killed else 1)
    assert spans(home) == (0 if killed else 8)
    assert import_bundle(home, SHIPPED).already == (not killed)
    assert spans(home) == 8


@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_removal_is_whole(home: Path, last: int) -> None:
    run_id = import_bundle(home, SHIPPED).run_id
    assert spans(home) == 8
    assert run_until_killed(_REMOVE, home, last, run_id)
    assert list_runs(home) == []
    assert spans(home) == 0
    sweep(home)
    assert not [path for path in (home / "parquet").rglob(f"*{run_id}*") if path.exists()]
    assert not import_bundle(home, SHIPPED).already, "its place is free"
    assert spans(home) == 8
    sweep(home)
    assert spans(home) == 8, "what is left of the removed run says nothing about this one"
