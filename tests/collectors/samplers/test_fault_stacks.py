"""Stacks that a process writes itself at a signal, where nobody may read it from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from collectors.board import BoardFacts, own_facts
from collectors.errors import OpsuiteError, TimedOut, Unreachable
from collectors.samplers import stacks
from collectors.samplers.fault_stacks import (
    install_fault_stacks,
    parse_fault_stacks,
    read_fault_stacks,
    remove_fault_stacks,
)
from collectors.samplers.stacks import read_stacks

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no real-time signals here")

RANK = """
import ctypes, os, sys, threading, time
from pathlib import Path
from collectors.samplers.fault_stacks import install_fault_stacks, remove_fault_stacks
signal = install_fault_stacks(Path(sys.argv[1]))
what = sys.argv[2]

def sleeps_forever():
    time.sleep(60)

def holds_the_lock():
    while True:
        ctypes.PyDLL(None).sleep(60)  # a signal ends it early

threading.Thread(target=sleeps_forever, daemon=True).start()
child = os.fork() if what == "forks" else 1
if child:
    print(signal, child, flush=True)
if what == "execs":
    os.execvp("sleep", ["sleep", "60"])
holds_the_lock() if what == "holds" else sleeps_forever()
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """What is killed with its children after the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _rank(
    started: list[subprocess.Popen[str]], tmp_path: Path, what: str
) -> tuple[BoardFacts, int]:
    """The facts of a new rank, and its child."""
    path = tmp_path / "rank0.stacks"
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, str(path), what],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    assert process.stdout is not None
    number, child = map(int, process.stdout.readline().split())
    _wait_until_asleep(process.pid)
    facts = own_facts("rank0", 0, 1, stacks_signal=number, stacks_file=str(path))
    return replace(facts, pid=process.pid), child


def _wait_until_asleep(pid: int) -> None:
    """A process and its children."""
    process = psutil.Process(pid)
    while any(one.status() != "sleeping" for one in [process, *process.children()]):
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("what", "function"), [("sleeps", "sleeps_forever"), ("holds", "holds_the_lock")]
)
def test_all_threads_are_written_also_while_the_lock_is_held(
    started: list[subprocess.Popen[str]], tmp_path: Path, what: str, function: str
) -> None:
    facts, _ = _rank(started, tmp_path, what)
    for _ in range(2):
        threads = read_fault_stacks(facts)
        assert [thread.main for thread in threads] == [False, True]
        assert threads[1].frames[0].function == function
        assert threads[1].frames[-1].function == "<module>"


def test_who_asks_at_once_gets_whole_stacks_each(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    facts, _ = _rank(started, tmp_path, "sleeps")
    found = []
    askers = [
        threading.Thread(target=lambda: found.append(read_fault_stacks(facts, timeout_s=5)))
        for _ in range(4)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [len(threads) for threads in found] == [2] * 4
    assert len({threads[1].frames for threads in found}) == 1


def test_who_cannot_answer_is_told_and_never_killed(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Stopped; replaced by another program; a number that is somebody else's; ended."""
    facts, _ = _rank(started, tmp_path, "sleeps")
    os.kill(facts.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, facts.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(Unreachable, match="is stopped"):
        read_fault_stacks(facts)
    other, _ = _rank(started, tmp_path, "execs")
    while Path(f"/proc/{other.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.01)
    with pytest.raises(Unreachable, match="is not set up"):
        read_fault_stacks(other)
    assert started[1].poll() is None
    with pytest.raises(Unreachable, match="has ended"):
        read_fault_stacks(replace(facts, since_ns=1))
    with pytest.raises(Unreachable, match="not of this host"):
        read_fault_stacks(replace(facts, space="elsewhere"))
    started[0].kill()
    started[0].wait()
    with pytest.raises(Unreachable, match="has ended"):
        read_fault_stacks(facts)


def test_without_ptrace_the_fallback_is_used_and_said(
    started: list[subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rank and of its forked child; nothing is asked of one without a board."""
    facts, child = _rank(started, tmp_path, "forks")
    fake = tmp_path / "py-spy"
    fake.write_text("#!/bin/sh\necho 'Permission denied' >&2\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setattr(stacks, "_py_spy", lambda: str(fake))
    found = read_stacks([facts.pid], boards={facts.pid: facts})
    assert [one.pid for one in found] == [facts.pid, child]
    for one in found:
        assert one.main is not None
        assert one.main.frames[0].function == "sleeps_forever"
        assert "written by the process itself" in one.note
        assert "ptrace is not allowed" in one.note
        assert one.error == ""
    [without] = read_stacks([facts.pid], children=False)
    assert "ptrace is not allowed" in without.error
    os.kill(facts.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, facts.pid, os.WSTOPPED | os.WNOWAIT)
    [stopped] = read_stacks([facts.pid], boards={facts.pid: facts}, children=False)
    assert stopped.stopped
    assert "ptrace is not allowed" in stopped.error
    assert "kill -CONT" in stopped.error


def test_it_can_be_undone_and_takes_no_signal_of_others(tmp_path: Path) -> None:
    first = install_fault_stacks(tmp_path / "dumps" / "a")
    second = install_fault_stacks(tmp_path / "dumps" / "b")
    assert len({first, second, 0}) == 3
    remove_fault_stacks(first)
    assert install_fault_stacks(tmp_path / "dumps" / "a") == first
    remove_fault_stacks(first)
    remove_fault_stacks(second)
    facts = own_facts("x", 0, 1, stacks_signal=first, stacks_file=str(tmp_path / "dumps" / "a"))
    with pytest.raises(Unreachable, match="is not set up"):
        read_fault_stacks(facts)


def test_where_the_file_cannot_be_made_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "dumps").write_text("")
    with pytest.raises(OpsuiteError, match="making"):
        install_fault_stacks(tmp_path / "dumps" / "a")


def test_one_that_does_not_write_is_not_waited_for(tmp_path: Path) -> None:
    """It catches the signal, but not to write into that file."""
    path = tmp_path / "stacks"
    path.write_text("")
    number = signal.SIGRTMIN + 20
    before = signal.signal(number, lambda *_: None)
    try:
        with pytest.raises(TimedOut, match="did not write its stacks"):
            read_fault_stacks(
                own_facts("x", 0, 1, stacks_signal=number, stacks_file=str(path)), timeout_s=0.2
            )
    finally:
        signal.signal(number, before)


TEXT = """Thread 0x00007f0000000001 [loader] (most recent call first):
  File "/a/b c.py", line 7 in get
  File "/a/train.py", line ??? in <module>
  ...

Current thread 0x00007f0000000002 (most recent call first):
  <no Python frame>
Thread 0x00007f0000000003 (most recent call first):
  File "/a/cut.py", line 1"""


@pytest.mark.parametrize(("main", "chosen"), [(0x7F0000000001, 0), (None, 2), (99, 2)])
def test_every_form_of_the_text_is_read(main: int | None, chosen: int) -> None:
    threads = parse_fault_stacks(TEXT, main=main)
    assert [thread.name for thread in threads] == ["loader", "", ""]
    assert [(frame.path, frame.line) for frame in threads[0].frames] == [
        ("/a/b c.py", 7),
        ("/a/train.py", 0),
    ]
    assert [len(thread.frames) for thread in threads] == [2, 0, 0]
    assert [thread.main for thread in threads].index(True) == chosen
    assert parse_fault_stacks("garbage\n", main=None) == ()
