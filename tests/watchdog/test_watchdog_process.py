"""The watchdog as a process, beside processes that write boards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from collectors.board_reader import open_boards
from collectors.daemon.access import open_store
from collectors.run import RunDirectory
from opsuite.watchdog.ending import first_failed
from opsuite.watchdog.ranks import LocalRanks
from opsuite.watchdog.starting import start_watchdog
from playbooks.hang.observation import Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from collectors.board import BoardState

SCRIPT = Path(__file__).with_name("watched_rank.py")
ROOT = Path(__file__).parents[2]
PATIENCE_S = 1.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


class Job:
    """A run, its ranks, and its watchdog, which speaks into a file."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.ranks: list[subprocess.Popen[bytes]] = []
        self.watchdogs: list[subprocess.Popen[bytes]] = []

    def start(self, *whats: str, steps: int = 5) -> None:
        """Start ranks, each of which does the steps and then its own thing."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for rank, what in enumerate(whats):
            words = [str(self.run.path), str(rank), str(len(whats)), str(steps), what]
            self.ranks.append(
                subprocess.Popen([sys.executable, str(SCRIPT), *words], env=environment)
            )
        wait_for(lambda: len(open_boards(self.run.path / "boards")) == len(whats))

    def watch(self, *, own: bool = True) -> subprocess.Popen[bytes]:
        """Start a watchdog."""
        self.watchdogs.append(start_watchdog(self.run.path, own=own))
        return self.watchdogs[-1]

    @property
    def log(self) -> str:
        """What the watchdog wrote down."""
        path = self.run.logs / "watchdog.log"
        return path.read_text() if path.exists() else ""

    @property
    def manifest(self) -> dict[str, object]:
        """As it is on disk."""
        found: dict[str, object] = json.loads((self.run.path / "run.json").read_text())
        return found

    def end(self) -> None:
        """End everything that was started."""
        for process in (*self.ranks, *self.watchdogs):
            process.kill()
            process.wait()


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def job(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("OPSUITE_HANG_S", str(PATIENCE_S))
    run = RunDirectory.create(
        home, name="test", kind="training", command=["train"], config={}, world_size=2
    )
    job = Job(run)
    yield job
    job.end()


def test_a_deadlock_is_told_recorded_and_bundled_and_the_failed_run_concluded(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    job.start("wait", "lock")
    watchdog = job.watch()
    began_s = time.monotonic()
    wait_for(lambda: "bundle:" in job.log)
    assert time.monotonic() - began_s < PATIENCE_S + 15
    assert "rank 1 on" in job.log
    assert (
        "never came to all_reduce #7 of world[0,1] (4.1 kB), in which rank 0 has waited" in job.log
    )
    line = next(
        n for n, text in enumerate(SCRIPT.read_text().splitlines(), 1) if "lock.acq" in text
    )
    assert (
        f"rank 1 waits for another thread at watched_rank.py:{line + 1} in hold_a_lock" in job.log
    )
    wait_for(lambda: list(job.run.path.glob("hang-1.opsuite.zip")))

    for rank in job.ranks:
        rank.kill()
        rank.wait()
    assert watchdog.wait(15) == 0
    assert (job.manifest["status"], job.manifest["exit_code"]) == ("failed", 1)
    assert "was killed, or ended without a word" in job.log
    assert "rank 1 waits for another thread" in capfd.readouterr().err
    with open_store(job.run.path.parents[1]) as store:
        findings = store.rows("SELECT kind, cause, ranks, first_step FROM findings")
        stacks = store.rows("SELECT rank, frames[1] FROM stacks WHERE thread = 'MainThread'")
    assert findings == [("hang", "lock", [1], 6)]
    assert any(rank == 1 and "hold_a_lock" in frame for rank, frame in stacks)


def test_a_stopped_rank_is_named_once_and_told_when_it_goes_on(job: Job) -> None:
    job.start("wait=8", "pause=0.5")
    job.ranks[1].send_signal(signal.SIGSTOP)
    job.watch(own=False)
    wait_for(lambda: "stopped by a signal" in job.log)
    time.sleep(1.2)
    assert job.log.count("has stopped stepping") == 1
    job.ranks[1].send_signal(signal.SIGCONT)
    wait_for(lambda: "went on after" in job.log)


def test_a_run_that_ends_well_is_finished_and_its_watchdog_goes_at_once(job: Job) -> None:
    job.start("end", "end", steps=20)
    watchdog = job.watch()
    for rank in job.ranks:
        assert rank.wait(20) == 0
    began_s = time.monotonic()
    assert watchdog.wait(15) == 0
    assert time.monotonic() - began_s < 10
    assert (job.manifest["status"], job.manifest["exit_code"]) == ("finished", 0)
    assert "stopped stepping" not in job.log


def test_there_is_one_a_run_which_outlives_whoever_started_it(job: Job) -> None:
    job.start("fail", "wait")
    code = (
        "from pathlib import Path; from opsuite.watchdog.starting import start_watchdog; "
        f"print(start_watchdog(Path({str(job.run.path)!r})).pid)"
    )
    starter = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0"},
        check=True,
        stdout=subprocess.PIPE,  # it keeps no pipe open
        timeout=20,
    )
    first = int(starter.stdout)
    wait_for(lambda: "bundle:" in job.log)
    assert "rank 0 has ended" in job.log
    assert "ValueError: no" in job.log
    assert job.watch().wait(15) == 0
    assert process_lives(first)
    assert job.manifest["pid"] == os.getpid()  # somebody else's run, which it leaves alone
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: not process_lives(first))
    assert job.manifest["status"] == "running"
    job.run.finish("interrupted", 130)
    assert job.watch(own=False).wait(15) == 0


def process_lives(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(") ")[2][:1] != "Z"


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ({0: None, 1: "ValueError: no"}, 1),  # the launcher ended rank 0
        ({0: "RuntimeError: Connection closed by peer", 1: None}, 1),  # killed, for its memory
        ({0: "RuntimeError: Connection closed by peer", 1: "KeyError: x", 2: None}, 1),
        ({0: "", 1: ""}, None),
    ],
)
def test_who_took_the_others_with_it(words: dict[int, str | None], first: int | None) -> None:
    ranks = []
    for rank, said in words.items():
        left = None if said is None else said == ""
        board = cast("BoardState", SimpleNamespace(left=left, last_words=said or ""))
        ranks.append(Observation(rank=rank, host="h", pid=rank, board=board, alive=False))
    found = first_failed(ranks)
    assert (None if found is None else found.rank) == first


def test_a_look_costs_little_and_the_last_process_of_a_rank_counts(job: Job) -> None:
    job.start("pause=60", "pause=60", steps=1)
    ranks = LocalRanks(job.run.path / "boards")
    seen = ranks.look()
    assert [(each.rank, each.alive, each.stopped) for each in seen] == [
        (0, True, False),
        (1, True, False),
    ]
    assert all(each.cpu_s is not None and each.io_bytes is not None for each in seen)
    began_s = time.process_time()
    for _ in range(50):
        ranks.look()
    assert (time.process_time() - began_s) / 50 < 0.01  # once a second: a hundredth of a core

    job.ranks[1].kill()
    job.ranks[1].wait()
    assert [each.alive for each in ranks.look()] == [True, False]
    words = [str(job.run.path), "1", "2", "1", "pause=60"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job.ranks.append(subprocess.Popen([sys.executable, str(SCRIPT), *words], env=environment))
    wait_for(lambda: [each.alive for each in ranks.look()] == [True, True])
    assert ranks.look()[1].pid == job.ranks[-1].pid
