"""The daemon reads samplers while a run lives, and whatever one of them does, goes on."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from collectors.clock import process_lives
from collectors.daemon.access import open_store
from collectors.daemon.chore import Warnings
from collectors.daemon.client import DaemonClient
from collectors.daemon.heartbeat import LocalRun, Recording
from collectors.daemon.journal import Journal
from collectors.daemon.sampling import Sampling, pids_of
from collectors.level import Level, level_of
from collectors.query.direct import Store
from collectors.run import RunDirectory
from collectors.samplers.memory import MemorySampler
from collectors.samplers.sampler import Absent, Happening, Reading
from collectors.samplers.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from collectors.recorder import Recorder

    OpenRank = Callable[[int | None], Recorder]
    StartDaemon = Callable[..., int]
    Eventually = Callable[..., None]

pytestmark = pytest.mark.once


RANK = """
import sys
from pathlib import Path
from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
open_recorder(Path(sys.argv[1]), Identity(run_id=sys.argv[2], role="trainer", rank=0,
    world_size=1, host=host_name(), coordinates={})).event("here")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rank(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """A process that records into the run until its input ends."""
    command = [sys.executable, "-P", "-c", RANK, str(run.spool), run.run_id]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


class Source:
    """A sampler that does what the test wants; how often it was read and closed."""

    period_s = 0.05

    def __init__(self, name: str, act: Callable[[], Sequence[Reading | Happening]] = tuple) -> None:
        self.name = name
        self._act = act
        self.reads = self.closed = 0

    def read(self) -> Sequence[Reading | Happening]:
        self.reads += 1
        return self._act()

    def close(self) -> None:
        self.closed += 1


class Bench:
    """Samplings of some sources, over runs that the test lets live and end."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.running: dict[str, LocalRun] = {}
        self.warnings = Warnings()

    def lives(self, *runs: RunDirectory) -> None:
        one = Recording(process="p", role="trainer", rank=0, pid=7)
        self.running = {run.run_id: LocalRun(run=run, processes=[one]) for run in runs}
        self.journal.keep(self.running)

    def sampling(self, *sources: Source) -> Sampling:
        makes = [lambda source=source: source for source in sources]
        return Sampling(lambda: makes, lambda: self.running, self.journal, self.warnings)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(Journal())
    yield made
    made.journal.keep(())


def look(sampling: Sampling, until: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(min(sampling.look(), 0.02))


def test_a_hanging_one_and_a_failing_one_hold_up_nobody(
    home: Path, run: RunDirectory, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collectors.samplers.schedule.OVERDUE_S", 0.3)
    come_back = threading.Event()

    def hang() -> Sequence[Reading]:
        come_back.wait()
        return [Reading("gpu.0.power_w", 7.0)]

    def fail() -> Sequence[Reading]:
        raise RuntimeError("the driver is confused")

    def deny() -> Sequence[Reading]:
        raise Absent("ask your administrator")

    hanging, good = Source("nvml", hang), Source("cpu", lambda: [Reading("host.cores", 2.0)])
    sampling = bench.sampling(hanging, Source("bad", fail), Source("ib", deny), good)
    bench.lives(run)
    look(sampling, lambda: good.reads > 10 and len(bench.warnings.list()) == 2)
    assert bench.warnings.list() == [
        "sampler bad: RuntimeError: the driver is confused",
        "sampler nvml: it has not answered for 0 s",
    ]
    assert hanging.reads == 1
    come_back.set()
    look(sampling, lambda: hanging.reads > 2)
    states = {entry["name"]: entry["state"] for entry in sampling.status()}
    assert states == {"nvml": "present", "bad": "failing", "ib": "absent", "cpu": "present"}
    sampling.close()
    bench.journal.keep(())
    with Store.open(home) as store:
        told = store.rows("SELECT sampler, part, state, reason FROM samplers ORDER BY sampler")
        [(family, instance, metric, least)] = store.rows(
            "SELECT family, instance, metric, min(value) FROM host_samples"
            " WHERE family = 'gpu' GROUP BY ALL"
        )
    assert told == [
        ("bad", None, "failing", "RuntimeError: the driver is confused"),
        ("cpu", None, "present", None),
        ("ib", None, "absent", "ask your administrator"),
        ("nvml", None, "present", None),
    ]
    assert (family, instance, metric, least) == ("gpu", "0", "power_w", 7.0)


def test_it_rests_while_no_run_lives_and_each_run_has_all(home: Path, bench: Bench) -> None:
    """A run that begins later is told how the samplers stand; one that ended gets nothing more."""
    first, second = (
        RunDirectory.create(
            home, name=name, kind="training", command=["x"], config={}, world_size=1
        )
        for name in ("first", "second")
    )
    source = Source("net", lambda: [Reading("net.eth0.7.rx_bytes_per_s", 5.0)])
    sampling = bench.sampling(source)
    assert sampling.look() == pytest.approx(1.0)
    assert source.reads == 0
    bench.lives(first)
    look(sampling, lambda: source.reads > 3)
    bench.lives(first, second)
    look(sampling, lambda: source.reads > 6)
    bench.lives()
    look(sampling, lambda: source.closed == 1)
    reads = source.reads
    time.sleep(0.1)
    assert (source.reads, bench.journal._recorders) == (reads, {})
    assert [one["state"] for one in sampling.status()] == ["present"]
    sampling.close()
    with Store.open(home) as store:
        rows = store.rows(
            "SELECT DISTINCT run_id, instance, metric, value FROM host_samples ORDER BY run_id"
        )
        told = store.rows("SELECT run_id, sampler, state FROM samplers ORDER BY run_id")
    both = (first.run_id, second.run_id)
    assert rows == [(run_id, "eth0.7", "rx_bytes_per_s", 5.0) for run_id in both]
    assert told == [(run_id, "net", "present") for run_id in both]


def test_a_journal_takes_samples_of_kept_runs_and_up_to_its_level(
    home: Path, run: RunDirectory
) -> None:
    journal = Journal(Level.ALWAYS)
    assert level_of(f"host.{MemorySampler.name}") is Level.SAMPLED
    readings = [Reading("host.cores", 2.0), Reading("unheard-of", 3.0)]
    journal.sample(run, readings)
    assert journal._recorders == {}
    journal.keep({run.run_id})
    journal.sample(run, readings)
    journal.record(run, "stack", {"pid": 1})
    journal.keep(())
    with Store.open(home) as store:
        assert store.rows("SELECT name FROM samples") == [("unheard-of",)]
        assert store.rows("SELECT name FROM events") == [("stack",)]


def test_a_full_spool_is_told_and_readers_go_on(run: RunDirectory, bench: Bench) -> None:
    source = Source("cpu", lambda: [Reading("host.cores", 2.0)])
    sampling = bench.sampling(source)
    bench.lives(run)
    run.spool.rmdir()
    run.spool.touch()
    look(sampling, lambda: source.reads > 3 and bench.warnings.list())
    [warning] = bench.warnings.list()
    assert warning.startswith("recording samples: ")
    sampling.close()


def test_a_real_daemon_samples_a_live_run_until_it_ends(
    home: Path,
    run: RunDirectory,
    rank: subprocess.Popen[str],
    start_daemon: StartDaemon,
    eventually: Eventually,
) -> None:
    pid = start_daemon("--idle-s", "0.5")

    def metrics() -> set[tuple[str, str]]:
        with open_store(home) as store:
            return set(store.rows("SELECT DISTINCT family, metric FROM host_samples"))

    wanted = {("host", "cpu_util_pct"), ("host", "home_free_bytes"), ("net", "rx_bytes_per_s")}
    eventually(lambda: wanted <= metrics())
    client = DaemonClient.find(home)
    assert client is not None
    with client:
        samplers = {one["name"]: one for one in client.status()["samplers"]}
    assert samplers["cpu"]["state"] == "present"
    assert {"nvml", "infiniband", "cgroup", "pressure"} <= samplers.keys()
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "collect", "status"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(r"^samplers .*\bcpu\b", shown, re.MULTILINE)
    for one in samplers.values():
        if one["state"] == "absent":
            assert f"{one['name']} absent: {one['reason']}" in shown
    assert rank.stdin is not None
    rank.stdin.close()
    run.finish("finished", 0)
    eventually(lambda: not process_lives(pid, since_ns=time.time_ns()))
    with Store.open(home) as store:
        assert store.rows("SELECT count(*) FROM samplers WHERE state = 'failing'") == [(0,)]


@pytest.mark.slow
def test_all_samplers_cost_a_twentieth_of_a_core_at_most(
    home: Path, run: RunDirectory, rank: subprocess.Popen[str], start_daemon: StartDaemon
) -> None:
    """The whole daemon, over half a minute of a live run; the figure is printed."""
    pid = start_daemon()
    process = psutil.Process(pid)
    time.sleep(3)

    def used_s() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    before_s, begun_s = used_s(), time.monotonic()
    time.sleep(30)
    share_pct = 100 * (used_s() - before_s) / (time.monotonic() - begun_s)
    print(f"the daemon uses {share_pct:.2f} % of a core with all samplers on")
    assert share_pct <= 5.0


def test_the_pids_are_those_of_all_runs(run: RunDirectory, bench: Bench) -> None:
    bench.lives(run)
    assert pids_of(lambda: bench.running) == [7]
    assert Schedule({}).wait_s(0.0) == float("inf")
