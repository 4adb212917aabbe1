"""Stacks of watched ranks as the collector takes them where it may not read them itself."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from collectors.daemon.journal import Journal
from collectors.daemon.stacks import take_stacks
from collectors.query.direct import Store
from collectors.samplers.stack_groups import from_entries, group_stacks, render_groups

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory

RANKS = """
import os, sys
from pathlib import Path
from collectors.board import Board, own_facts
from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from collectors.samplers.fault_stacks import install_fault_stacks

run = Path(sys.argv[1])
rank = next((rank for rank in (1, 2) if not os.fork()), 0)
recorder = open_recorder(run / "spool", Identity(run_id=run.name, role="trainer", rank=rank,
    world_size=3, host=host_name(), coordinates={}))
stacks = run / "dumps" / f"{rank}.stacks"
number = install_fault_stacks(stacks)
board = Board(run / "boards", own_facts(f"rank{rank}", rank, 3, stacks_signal=number,
                                        stacks_file=str(stacks)))

def waits_for_the_others():
    return os.write(1, b"ready\\n"), sys.stdin.read()

def reads_a_file():
    return os.write(1, b"ready\\n"), sys.stdin.read()

reads_a_file() if rank == 2 else waits_for_the_others()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no real-time signals here")
def test_ranks_that_may_not_be_read_write_their_stacks_and_the_odd_one_is_first(
    home: Path, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "py-spy"
    fake.write_text("#!/bin/sh\necho 'Permission denied' >&2\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setattr("collectors.samplers.stacks._py_spy", lambda: str(fake))
    with subprocess.Popen(
        [sys.executable, "-c", RANKS, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as ranks:
        assert ranks.stdout is not None
        assert [ranks.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
        journal = Journal()
        entries = take_stacks(run, journal)
        journal.keep(())
    assert sorted(entry["rank"] for entry in entries) == [0, 1, 2]
    assert all("ptrace is not allowed" in entry["note"] for entry in entries)
    told = render_groups(group_stacks(from_entries(entries)[0])).splitlines()
    assert told[0].startswith("1 of 3: rank 2, process ")
    assert told[1].startswith("  reads_a_file (<string>:")
    assert told[4].startswith("2 of 3: ranks 0,1, processes ")
    with Store.open(home) as store:
        recorded = store.rows("SELECT attributes FROM raw.event WHERE name = 'stack'")
    assert {json.loads(text)["frames"][0]["path"] for (text,) in recorded} == {"<string>"}
