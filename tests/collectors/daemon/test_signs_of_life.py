"""Heartbeats and stacks of real processes, and that a run settles all the same."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from collectors.daemon.heartbeat import Heartbeats, LocalProcesses
from collectors.daemon.journal import Journal
from collectors.daemon.stacks import take_stacks
from collectors.errors import Unreachable
from collectors.query.direct import Store
from collectors.samplers.stack_entries import fitted
from collectors.samplers.stacks import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]

RANK = """
import sys, time
from pathlib import Path
from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
recorder = open_recorder(Path(sys.argv[1]), Identity(run_id=sys.argv[2], role="trainer", rank=1,
    world_size=2, host=host_name(), coordinates={}))
def wait_for_the_others():
    print("ready", flush=True)
    sys.stdin.read()
wait_for_the_others()
recorder.close()
print("closed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def rank(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """Rank 1 of the run, a process that waits."""
    command = [sys.executable, "-P", "-c", RANK, str(run.spool), run.run_id]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_each_live_process_beats_until_it_records_no_more(
    home: Path, run: RunDirectory, rank: subprocess.Popen[str]
) -> None:
    journal = Journal()
    heartbeats = Heartbeats(journal)
    for now_s in (100.0, 104.9, 105.1):
        heartbeats.beat([run], now_s)
    assert rank.stdin is not None
    assert rank.stdout is not None
    rank.stdin.close()
    assert rank.stdout.readline() == "closed\n"
    heartbeats.beat([run], 200.0)
    run.finish("finished", 0)
    with Store.open(home) as store:
        beats = store.rows(
            "SELECT role, attributes->>'rank', attributes->>'pid', attributes->>'role',"
            " (attributes->>'rss_bytes')::BIGINT > 1e6, (attributes->>'threads')::INT > 0,"
            " (attributes->>'cpu_s')::DOUBLE > 0, attributes->>'state' IN ('sleeping', 'running')"
            " FROM raw.event JOIN raw.process USING (process) WHERE name = 'heartbeat'"
        )
        open_segments = store.snapshot
    who = ("collector", "1", str(rank.pid), "trainer", True, True, True, True)
    assert beats == [who, who]
    assert open_segments.run_ids == (run.run_id,)
    assert journal._recorders == {}, "an open recorder would keep the run live"


def test_who_died_or_is_this_process_does_not_beat(
    run: RunDirectory, rank: subprocess.Popen[str], open_rank: OpenRank
) -> None:
    open_rank(0)
    processes = LocalProcesses()
    assert [known.pid for known in processes.of(run)] == [rank.pid]
    rank.kill()
    rank.wait()
    assert processes.of(run) == []
    (run.spool / "garbage.seg").write_bytes(b"garbage")
    assert processes.of(run) == []


def test_stacks_name_where_it_waits_and_are_recorded(
    home: Path, run: RunDirectory, rank: subprocess.Popen[str]
) -> None:
    try:
        dump(rank.pid)
    except Unreachable as error:
        pytest.skip(str(error))
    journal = Journal()
    [entry] = take_stacks(run, journal)
    journal.keep(())
    assert (entry["rank"], entry["pid"], entry["role"]) == (1, rank.pid, "trainer")
    [waiting] = [one for one in entry["frames"] if one["function"] == "wait_for_the_others"]
    assert (waiting["file"], waiting["path"]) == ("<string>", "<string>")
    assert entry["main"]
    with Store.open(home) as store:
        [(text,)] = store.rows("SELECT attributes FROM raw.event WHERE name = 'stack'")
    assert "wait_for_the_others" in text


def test_a_run_without_processes_has_no_stacks(run: RunDirectory) -> None:
    with pytest.raises(Unreachable, match="no process"):
        take_stacks(run, Journal())


def test_a_deep_stack_is_cut_at_its_outer_end() -> None:
    frames = [{"function": f"f{i}", "file": "x.py", "line": i} for i in range(5000)]
    entry = fitted({"pid": 1, "frames": frames})
    assert entry["frames"][0] == frames[0]
    assert len(entry["frames"]) + entry["frames_left_out"] == 5000
    assert len(str(entry)) < 16_000
