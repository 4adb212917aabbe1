"""Stacks of real processes: waiting, stopped, dead, foreign, and those they have started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from collectors.errors import Unreachable
from collectors.samplers import stacks
from collectors.samplers.stacks import dump, read_stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., subprocess.Popen[str]]

RANK = """
import os, runpy, sys, threading, time

class Trainer:
    def waits(self):
        time.sleep(60)

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
workers = []
for _ in range(int(sys.argv[1])):
    workers.append(os.fork())
    if not workers[-1]:
        runpy.run_path(os.path.dirname(__file__) + "/torch/utils/data/_utils/worker.py")
print(*workers, flush=True)
Trainer().waits()
"""
WORKER = """
import time
def _worker_loop():
    time.sleep(60)
_worker_loop()
"""
LAUNCHER = """
import os, subprocess, sys, time
for rank in "01":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                     env={**os.environ, "RANK": rank})
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Python process and waits for its first line; it is killed with its children."""
    started: list[subprocess.Popen[str]] = []

    def one(text: str, *arguments: str) -> subprocess.Popen[str]:
        script = tmp_path / f"train{len(started)}.py"
        script.write_text(text)
        command = [sys.executable, str(script), *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        _wait_until(process.pid, "sleeping")
        return process

    yield one
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def rank(tmp_path: Path, start: Start) -> Start:
    """Starts a rank with so many loader workers."""
    _check_ptrace()
    module = tmp_path / "torch" / "utils" / "data" / "_utils" / "worker.py"
    module.parent.mkdir(parents=True)
    module.write_text(WORKER)
    return lambda workers=0: start(RANK, str(workers))


def _wait_until(pid: int, state: str) -> None:
    """Until a process and all its children are in that state."""
    process = psutil.Process(pid)
    deadline = time.monotonic() + 10
    while any(one.status() != state for one in [process, *process.children()]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _check_ptrace() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        time.sleep(0.2)
        try:
            dump(process.pid)
        except Unreachable as error:
            pytest.skip(str(error))
        finally:
            process.kill()


def test_a_rank_and_its_loader_workers(tmp_path: Path, rank: Start) -> None:
    """The main thread is known, files with their full path; workers are told as such."""
    process = rank(2)
    own, *workers = read_stacks([process.pid])
    assert (own.pid, own.child, own.error, own.stopped) == (process.pid, "", "", False)
    assert len(own.threads) == 2
    assert own.main is not None
    innermost = own.main.frames[0]
    assert innermost.function.rpartition(".")[2] == "waits"
    assert (innermost.path, innermost.file) == (str(tmp_path / "train0.py"), "train0.py")
    assert RANK.splitlines()[innermost.line - 1].strip() == "time.sleep(60)"
    assert [(one.rank_pid, one.child) for one in workers] == [(process.pid, "loader worker")] * 2
    assert {one.main.frames[0].function for one in workers if one.main} == {"_worker_loop"}
    assert len(read_stacks([process.pid], children=False)) == 1


def test_not_all_of_very_many_children_are_read(rank: Start) -> None:
    assert len(read_stacks([rank(11).pid])) == 1 + 8


def test_a_launchers_ranks_are_not_its_children(start: Start) -> None:
    _check_ptrace()
    assert len(read_stacks([start(LAUNCHER).pid])) == 1


def test_a_stopped_process_is_read_and_told(rank: Start) -> None:
    process = rank()
    process.send_signal(signal.SIGSTOP)
    _wait_until(process.pid, "stopped")
    [own] = read_stacks([process.pid])
    assert own.stopped
    assert own.main is not None
    assert own.main.frames[0].function.endswith("waits")


def test_who_cannot_be_read_has_an_error_and_the_others_their_stacks(rank: Start) -> None:
    """Ended, a zombie, and no Python."""
    process = rank()
    ended = subprocess.Popen(["true"])
    zombie = subprocess.Popen(["true"])
    ended.wait()
    with subprocess.Popen(["sleep", "60"]) as foreign:
        time.sleep(0.1)
        found = read_stacks([ended.pid, process.pid, zombie.pid, foreign.pid])
        foreign.kill()
    zombie.wait()
    assert [bool(one.threads) for one in found] == [False, True, False, False]
    assert found[0].error == f"process {ended.pid} has ended"
    assert found[2].error == f"process {zombie.pid} has ended"
    assert "no Python" in found[3].error


def test_one_that_dies_while_it_is_read_is_told(
    tmp_path: Path, rank: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = rank()
    _fake(
        tmp_path, monkeypatch, f"kill -9 {process.pid}; sleep 0.1; echo 'Error: gone' >&2; exit 1"
    )
    [own] = read_stacks([process.pid])
    assert own.error == f"process {process.pid} has ended"


def test_what_is_not_begun_in_time_says_so(rank: Start) -> None:
    [own] = read_stacks([rank().pid], within_s=0)
    assert "no time was left" in own.error


def test_where_ptrace_is_not_allowed_it_is_said_what_to_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(
        tmp_path, monkeypatch, "echo 'Permission Denied: Try running again with sudo' >&2; exit 1"
    )
    with pytest.raises(Unreachable, match="ptrace is not allowed") as error:
        dump(os.getpid())
    assert "SYS_PTRACE" in error.value.remedy
    for scope, remedy in (("1", "ptrace_scope=0"), ("3", "")):
        (tmp_path / "scope").write_text(scope)
        monkeypatch.setattr(stacks, "_YAMA", tmp_path / "scope")
        with pytest.raises(Unreachable, match=f"ptrace_scope={scope}") as error:
            dump(os.getpid())
        assert remedy in error.value.remedy


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become nobody"
)
def test_a_real_denial(monkeypatch: pytest.MonkeyPatch, rank: Start) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        copy = shutil.copy(stacks._py_spy(), directory)
        nobody = "--reuid 65534 --regid 65534 --clear-groups"
        _fake(Path(directory), monkeypatch, f'exec setpriv {nobody} {copy} "$@"')
        [own] = read_stacks([rank().pid])
    assert "ptrace is not allowed" in own.error


def _fake(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = directory / "fake-py-spy"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr(stacks, "_py_spy", lambda: str(path))
