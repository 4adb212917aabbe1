"""``opsuite attach``: real processes that know nothing of opsuite, looked at from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.query.direct import Store
from collectors.run import RunDirectory, list_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]

# What a stack of torch looks like from outside, without loading torch.
COLLECTIVES = """
import time

def barrier():
    time.sleep(1e6)
"""
TRAINER = """
import os, sys, threading, time
from torch.distributed.distributed_c10d import barrier

rank, what = int(os.environ["RANK"]), sys.argv[1]

def refill(lock):
    lock.acquire()

def think():
    total = 0
    for _ in range(200_000):
        total += 1
    time.sleep(0.02)

def step():
    if what == "deadlock" and rank == 1:
        lock = threading.Lock()
        lock.acquire()
        refill(lock)
    if what in ("deadlock", "stop", "leave"):
        if what == "leave" and rank == 1:
            while not os.path.exists(os.path.join(os.path.dirname(__file__), "leave")):
                time.sleep(0.01)
            sys.exit()
        barrier()
    think()
    time.sleep(0.02)

print("ready", flush=True)
while True:
    step()
"""
LOCKED = TRAINER.splitlines().index("    lock.acquire()") + 1


class Job:
    """Two ranks of a trainer, started as torchrun does."""

    def __init__(self, ranks: list[subprocess.Popen[str]]) -> None:
        self.ranks = ranks

    @property
    def pids(self) -> list[str]:
        return [str(rank.pid) for rank in self.ranks]


@contextmanager
def running(directory: Path, what: str) -> Iterator[Job]:
    package = directory / "torch" / "distributed"
    package.mkdir(parents=True)
    for name in ("torch/__init__.py", "torch/distributed/__init__.py"):
        (directory / name).touch()
    (package / "distributed_c10d.py").write_text(COLLECTIVES)
    script = directory / "train.py"
    script.write_text(TRAINER)
    environ = {**os.environ, "PYTHONPATH": str(directory), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), what],
            stdout=subprocess.PIPE,
            text=True,
            env={**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"
        yield Job(ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "opsuite.cli.main", "attach", *arguments]


def attach(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False, **options
    )


def the_run(home: Path) -> RunDirectory:
    [run] = list_runs(home)
    return run


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with Store.open(home) as store:
        return store.rows(sql)


def test_a_deadlock_is_named_and_all_of_it_is_kept(home: Path, tmp_path: Path) -> None:
    with running(tmp_path, "deadlock") as job:
        done = attach(*job.pids, "--for", "1s")
        untouched = [rank.poll() is None for rank in job.ranks]
    assert done.returncode == 1, done.stderr
    verdict = done.stdout.partition("\nstuck: ")[2].splitlines()
    assert verdict[1].startswith("likely: rank 1 on ")
    assert "rank 0 has waited" in verdict[1]
    assert f"rank 1 waits for another thread at train.py:{LOCKED} in refill" in verdict[2]
    assert done.stdout.startswith(f"1 of 2: rank 1, process {job.pids[1]}\n  refill (train.py")
    bundle = Path(verdict[-1].removeprefix("bundle: "))
    assert bundle.stat().st_size > 0
    assert untouched == [True, True]
    run = the_run(home)
    assert (run.manifest.status, run.manifest.exit_code) == ("finished", 1)
    assert (run.manifest.kind, run.manifest.notes, run.manifest.world_size) == (
        "training",
        "attached",
        2,
    )
    pids = [(rank, int(pid)) for rank, pid in enumerate(job.pids)]
    stacks = rows(home, "SELECT DISTINCT rank, pid, frames[1] FROM stacks WHERE thread <> '' ")
    assert {(rank, pid) for rank, pid, _ in stacks} == set(pids)
    assert rows(home, "SELECT kind, ranks, cause FROM findings") == [("hang", [1], "lock")]
    assert rows(home, "SELECT rank FROM ranks ORDER BY rank") == [(0,), (1,)]
    names = {name for (name,) in rows(home, "SELECT DISTINCT name FROM samples")}
    assert {"process.cpu_s", "process.rss_bytes", "process.threads"} <= names
    assert any(name.startswith("host.") for name in names), names


def test_a_job_that_moves_is_left_in_peace(home: Path, tmp_path: Path) -> None:
    with running(tmp_path, "move") as job:
        done = attach(*job.pids, "--for", "1s", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["state"] == "moving"
    assert answer["answer"][0] == "moving: 2 of 2 ranks change"
    assert [rank["pid"] for rank in answer["ranks"]] == [int(pid) for pid in job.pids]
    assert (answer["findings"], answer["bundle"]) == ([], None)
    assert any("TORCH_NCCL_DEBUG_INFO_PIPE_FILE" in each["what"] for each in answer["missing"])
    assert the_run(home).manifest.exit_code == 0


def test_a_stopped_rank_is_read_and_stays_stopped(home: Path, tmp_path: Path) -> None:
    with running(tmp_path, "stop") as job:
        stopped = job.ranks[0].pid
        os.kill(stopped, signal.SIGSTOP)
        done = attach(*job.pids, "--for", "1s")
        states = [_state(pid) for pid in job.pids]
        os.kill(stopped, signal.SIGCONT)
    assert done.returncode == 1, done.stderr
    assert "rank 0 is stopped by a signal or a debugger" in done.stdout
    assert f"kill -CONT {stopped}" in done.stdout
    assert states == [("T", "0"), ("S", "0")]  # nobody traces them, and nobody woke one up


def test_a_rank_that_ends_is_told(home: Path, tmp_path: Path) -> None:
    with (
        running(tmp_path, "leave") as job,
        subprocess.Popen(
            command(*job.pids, "--for", "2s", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as attached,
    ):
        _wait_for_looks(attached)
        (tmp_path / "leave").touch()
        answered, told = attached.communicate(timeout=30)
    assert attached.returncode == 1, told
    assert "rank 1 ended while attached" in told
    answer = json.loads(answered)
    assert answer["ended"] == [1]
    assert [(each["ranks"], each["cause"]) for each in answer["findings"]] == [([1], "gone")]


def test_interrupted_it_keeps_what_it_has(home: Path, tmp_path: Path) -> None:
    with running(tmp_path, "move") as job:
        looks = [
            subprocess.Popen(command(*job.pids, "--for", "60s"), stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for attached, number in zip(looks, (signal.SIGINT, signal.SIGTERM), strict=True):
            _wait_for_looks(attached)
            attached.send_signal(number)
            _, told = attached.communicate(timeout=30)
            assert attached.returncode == 130
            assert "what was gathered is kept" in told
    ended = {(run.manifest.status, run.manifest.exit_code) for run in list_runs(home)}
    assert ended == {("interrupted", 130)}
    kept = rows(home, "SELECT DISTINCT run_id, rank FROM stacks")
    assert sorted(rank for _, rank in kept) == [0, 0, 1, 1]


def test_nothing_to_look_at(home: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        done = attach(str(sleeper.pid), str(2**22 + 1), "--for", "1s")
        sleeper.kill()
    assert done.returncode == 3
    assert "(sleep)" in done.stderr
    assert "there is no such process" in done.stderr
    assert list_runs(home) == []
    assert attach("1", "--for", "soon").returncode == 2


# Imports all it needs, gives up its rights, and attaches.
AS_NOBODY = """
import os, sys
import collectors.samplers.stacks
from opsuite.attaching import command, report, host
from collectors.daemon.sampling import host_samplers
import collectors.bundle.writer, collectors.spool_recorder, collectors.version
collectors.version.own_version()  # imports more, which nobody could read
list(host_samplers(__import__("pathlib").Path("/"), list))
sys.executable = sys.argv[1] + "/bin/python"
os.chdir(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
answer = command.attach_to(
    [int(pid) for pid in sys.argv[2:]],
    for_s=0.5, name=None, command=["opsuite"], narrate=lambda text: print(text, file=sys.stderr),
)
print(report.render(answer))
sys.exit(answer.exit_code)
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become nobody")
def test_what_missing_permissions_cost_is_told(tmp_path: Path) -> None:
    """Another user's ranks: no stacks, no environment, no counts of what they read."""
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        pytest.skip("py-spy is not installed beside this Python")
    place = Path(tempfile.mkdtemp(prefix="opsuite-nobody-"))
    try:
        (place / "bin").mkdir()
        shutil.copy(py_spy, place / "bin" / "py-spy")
        for path in (place, place / "bin"):
            path.chmod(0o755)
        os.chown(place, 65534, 65534)
        with running(tmp_path, "deadlock") as job:
            done = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, str(place), *job.pids],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, "OPSUITE_HOME": str(place / "home"), "PYTHONPATH": str(ROOT)},
            )
        assert done.returncode == 3, done.stderr
        for told in (
            "the stacks of ranks 0, 1 cannot be read: ptrace is not allowed",
            "/proc/PID/environ of ranks 0, 1 may not be read",
            "/proc/PID/io of ranks 0, 1 may not be read",
            "no RANK in their environment: numbered in the order in which they were given",
            "run `opsuite attach` as root",
        ):
            assert told in done.stderr, done.stderr
        assert "no stack could be read, so nothing can be said" in done.stdout
        assert the_run(place / "home").manifest.status == "finished"
    finally:
        shutil.rmtree(place)


def _wait_for_looks(attached: subprocess.Popen[str]) -> None:
    """Until it has looked once, and said what it may not see."""
    assert attached.stderr is not None
    while "missing: " not in (line := attached.stderr.readline()):
        assert line, "it ended"
    time.sleep(0.1)


def _state(pid: str) -> tuple[str, str]:
    """The letter of its state, and who traces it."""
    fields = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return fields["State"][0], fields["TracerPid"]
