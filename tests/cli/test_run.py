"""``opsuite run`` as a user meets it: output, signals, exit codes, and who failed first."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.run import RunDirectory
from opsuite.running.exit_reason import explain_failure, last_traceback
from opsuite.running.injection import INJECTED, injected_environment
from opsuite.running.launcher_report import read_report
from opsuite.running.screen import harmless
from opsuite.running.tail import LineTail

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="opsuite run needs Linux")
OPSUITE = [sys.executable, "-P", "-m", "opsuite.cli.main", "run"]
PYTHON = sys.executable

RANKS = """
import os, subprocess, sys
print("launcher", flush=True)
print("launcher warns", file=sys.stderr, flush=True)
ranks = [
    subprocess.Popen([sys.executable, *sys.argv[1:]], env={**os.environ, "RANK": str(rank),
                     "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"})
    for rank in range(2)
]
sys.exit(max(rank.wait() for rank in ranks))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "OPSUITE_HOME": str(home), "OPSUITE_WATCHDOG": "0", **more}


def run(home: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OPSUITE, *command],
        capture_output=True,
        text=True,
        env=environment(home, **more),
        timeout=100,
        check=False,
    )


def script(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def manifest(home: Path) -> dict[str, Any]:
    (path,) = home.glob("runs/*/run.json")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def test_ranks_are_captured_and_prefixed_and_the_rest_passes(tmp_path: Path) -> None:
    """Both streams of a rank in order in its log; a child's own pipe is left alone."""
    rank = """
import os, subprocess, sys
print("out", 1); print("err", 1, file=sys.stderr); print("out", 2)
asked = [sys.executable, "-c", "print('to my parent')"]
print("got", subprocess.run(asked, capture_output=True, text=True).stdout.strip())
subprocess.run([sys.executable, "-c", "print('child of', 'a rank')"])
sys.stdout.write("\\r10%\\r99%\\rlast")
"""
    launcher, worker = script(tmp_path / "l.py", RANKS), script(tmp_path / "w.py", rank)
    home = tmp_path / "home"
    done = run(home, "--name", "mine", "--notes", "key=hf_abcdefghijkl", "--", PYTHON, launcher,
               worker)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = ["out 1", "err 1", "out 2", "got to my parent", "child of a rank", "last"]
    for number in range(2):
        own = [line.partition(" ")[2] for line in lines if line.startswith(f"[rank{number}] ")]
        assert [line for line in own if line != "99%"] == said  # drawn over, if it was seen at all
    assert "launcher" in lines
    assert "launcher warns" in done.stderr.splitlines()
    assert "no rank reported" in done.stderr
    told = manifest(home)
    assert (told["name"], told["status"], told["exit_code"]) == ("mine", "finished", 0)
    assert "hf_abcdefghijkl" not in told["notes"]
    (logs,) = home.glob("runs/*/logs")
    assert {path.name for path in logs.iterdir()} == {"launcher.log", "rank0.log", "rank1.log"}
    assert (logs / "rank0.log").stat().st_mode & 0o77 == 0
    kept = (logs / "launcher.log").read_text().splitlines()
    assert sorted(kept) == ["launcher", "launcher warns"]

    plain = run(tmp_path / "plain", "--no-capture", "--", PYTHON, launcher, worker)
    assert "[rank" not in plain.stdout
    assert plain.stdout.count("child of") == 2


def test_bad_commands_are_one_message_and_leave_nothing(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("no program", encoding="utf-8")
    for command, words in (
        (["--", "no-such-command"], "not found"),
        (["--", str(plain)], "cannot be executed"),
        ([], "no command"),
    ):
        done = run(tmp_path, *command)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
    assert not (tmp_path / "runs").exists()


PROBE = """
import importlib.util, sys
print(importlib.util.find_spec("torch").name, "torch" in sys.modules)
import torch
loader = torch.__loader__
print(torch.answer, type(loader).__name__, vars(loader).keys() & {"exec_module"})
print("sitecustomize" in sys.modules, getattr(sys.modules["sitecustomize"], "theirs", None))
print([path for path in sys.path if path.endswith("/running/inject")], sys.meta_path)
"""


def test_the_injection_is_not_noticed(tmp_path: Path) -> None:
    """The user's own sitecustomize runs; torch's loader is its own; what fails of ours is told."""
    theirs = tmp_path / "theirs"
    (theirs / "torch").mkdir(parents=True)
    script(theirs / "sitecustomize.py", "theirs = 'loaded'")
    script(theirs / "torch" / "__init__.py", "answer = 42; __version__ = '2.9.0+cpu'")
    probe = script(tmp_path / "probe.py", PROBE)
    bare = {"OPSUITE_RUN": "r", "OPSUITE_HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    def ask(*options: str, path: Path) -> subprocess.CompletedProcess[str]:
        variables = {**bare, "PYTHONPATH": f"{INJECTED}:{path}"}
        return subprocess.run(
            [PYTHON, *options], env=variables, capture_output=True, text=True, check=False
        )

    done = ask(probe, path=theirs)
    found, loaded, custom, paths = done.stdout.splitlines()
    assert found == "torch False"
    assert loaded == "42 SourceFileLoader set()"
    assert custom == "True loaded"
    assert paths.startswith("[] ")
    assert "AfterTorch" not in paths
    assert done.stderr.count("opsuite: this process is not watched") == 1  # that is no torch

    broken = script(theirs / "sitecustomize.py", "raise ValueError('theirs')")
    assert "ValueError: theirs" in ask(probe, path=theirs).stderr, broken
    for option in ("-S", "-I", "-E"):
        assert ask(option, "-c", "print(1)", path=theirs).stdout == "1\n"


def test_the_flight_recorder_is_as_the_user_set_it(home: Path) -> None:
    run = RunDirectory.create(
        home, name="test", kind="training", command=[], config={}, world_size=1
    )
    ours = injected_environment({"PYTHONPATH": "/a:/b"}, run, streams=None)
    assert ours["TORCH_FR_BUFFER_SIZE"] == "2000"
    assert ours["TORCH_FR_DUMP_TEMP_FILE"].startswith(f"{run.path}/dumps/")
    assert ours["PYTHONPATH"] == f"{INJECTED}:/a:/b"
    assert "OPSUITE_STREAMS" not in ours
    theirs = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "7", "PYTHONPATH": ""}
    ours = injected_environment(theirs, run, streams=(1, 2))
    assert "TORCH_FR_BUFFER_SIZE" not in ours
    assert ours["PYTHONPATH"] == str(INJECTED)


WAITS = """
import os, signal, sys, time
counts = {}
def count(number, frame):
    counts[number] = counts.get(number, 0) + 1
    print("got", signal.Signals(number).name, counts[number], flush=True)
    if number != signal.SIGUSR1:
        time.sleep(0.3)
        sys.exit(7)
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
    signal.signal(getattr(signal, name), count)
print("ready", os.getpid(), os.isatty(1), flush=True)
time.sleep(60)
"""


def start(
    home: Path, *command: str, hangup: signal.Handlers = signal.SIG_DFL
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*OPSUITE, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(home),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),  # noqa: PLW1509 - no thread yet
    )


def end_of(child: subprocess.Popen[str]) -> int:
    with child:
        return child.wait(20)


def read_until(child: subprocess.Popen[str], words: str) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if words in line:
            return line
    raise AssertionError(f"it never said {words!r}")


def test_signals_reach_the_command_and_its_end_is_ours(tmp_path: Path) -> None:
    waits = script(tmp_path / "waits.py", WAITS)
    child = start(tmp_path / "a", PYTHON, waits)
    read_until(child, "ready")
    child.send_signal(signal.SIGUSR1)
    assert read_until(child, "got") == "got SIGUSR1 1\n"
    child.send_signal(signal.SIGTERM)
    assert read_until(child, "got") == "got SIGTERM 1\n"
    assert end_of(child) == 130
    assert manifest(tmp_path / "a")["status"] == "interrupted"

    # A shell that dies of the signal leaves its child to us.
    child = start(tmp_path / "b", "bash", "-c", f"{PYTHON} {waits}; true")
    pid = int(read_until(child, "ready").split()[1])
    child.send_signal(signal.SIGHUP)
    assert end_of(child) == 130
    assert not alive(pid)


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    waits = script(tmp_path / "waits.py", WAITS)
    child = start(tmp_path, PYTHON, waits, hangup=signal.SIG_IGN)
    read_until(child, "ready")
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGUSR1)
    assert read_until(child, "got") == "got SIGUSR1 1\n"
    child.send_signal(signal.SIGTERM)
    assert read_until(child, "got") == "got SIGTERM 1\n"
    assert end_of(child) == 130


def test_the_command_is_told_when_we_are_killed(tmp_path: Path) -> None:
    child = start(tmp_path, PYTHON, script(tmp_path / "waits.py", WAITS))
    pid = int(read_until(child, "ready").split()[1])
    child.kill()
    assert end_of(child) == -signal.SIGKILL
    wait_until(lambda: not alive(pid), 10)


def test_a_terminal_stays_one_and_ctrl_c_comes_once(tmp_path: Path) -> None:
    waits = script(tmp_path / "waits.py", WAITS)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(environment(tmp_path))
        os.execv(PYTHON, [*OPSUITE, "--", PYTHON, waits])
    shown = read_terminal(terminal, "ready")
    assert shown.split("ready")[1].split()[1] == "True"
    os.write(terminal, b"\x03")
    shown += read_terminal(terminal, None)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert shown.count("got SIGINT 1") == 1
    assert "got SIGINT 2" not in shown
    assert shown.rstrip().endswith("interrupted by SIGINT")


def read_terminal(terminal: int, words: str | None) -> str:
    """Until a line with ``words``, or the end."""
    shown, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if words is not None and words.encode() in shown and shown.endswith(b"\n"):
            break
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(terminal, 4096)
        except OSError as error:
            assert error.errno == errno.EIO  # the last process has closed it
            break
    return shown.decode()


TORCHRUN = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-01-02_03:04:05
  host      : node7
  rank      : 2 (local_rank: 2)
  exitcode  : {second} (pid: 550)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 550
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-02_03:04:05
  host      : node7
  rank      : 1 (local_rank: 1)
  exitcode  : {first} (pid: 551)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""
RAISED = """\
[rank{rank}]: Traceback (most recent call last):
[rank{rank}]:   File "/work/train.py", line 7, in <module>
[rank{rank}]:     {call}
[rank{rank}]: {error}
more output
"""


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1, -15, "rank 1 on node7 failed first: exit code 1"),
        (-9, 1, "rank 1 on node7 failed first: killed by SIGKILL"),
        (1, 1, "rank 2 on node7 failed first: exit code 1"),  # rank 1 has only lost rank 2
        (-15, -11, "rank 2 on node7 failed first: killed by SIGSEGV"),
    ],
)
def test_the_first_failing_rank_is_the_cause(
    first: int, second: int, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    error = "RuntimeError: Connection closed by peer" if second == 1 else "ValueError: y"
    lost = RAISED.format(rank=1, call="step()", error=error)
    own = RAISED.format(rank=2, call="load()", error="KeyError: 'x'")
    for name, text in (
        ("launcher", TORCHRUN.format(first=first, second=second)),
        ("rank1", lost),
        ("rank2", own),
    ):
        (tmp_path / "logs" / f"{name}.log").write_text(text, encoding="utf-8")
    told = explain_failure(tmp_path, 1, {})
    assert told.splitlines()[0] == expected
    if (first, second) == (1, 1):
        assert told.endswith("|     load()\n  | KeyError: 'x'")


def test_spawned_ranks_and_commands_without_ranks_are_explained(tmp_path: Path) -> None:
    raised = "\n\n-- Process 3 terminated with the following error:\nTraceback ...\nValueError: x\n"
    (end,) = read_report(raised)
    assert (end.rank, end.exit_code, end.traceback.splitlines()[-1]) == (3, 1, "ValueError: x")
    (end,) = read_report("ProcessExitedException: process 5 terminated with signal SIGABRT\n")
    assert (end.rank, end.exit_code) == (5, -signal.SIGABRT)
    assert read_report("nothing") == []
    assert last_traceback("nothing") == ""
    told = explain_failure(tmp_path, 128 + signal.SIGKILL, {})
    assert told.startswith("the command failed: killed by SIGKILL")


def test_a_tail_gives_whole_lines_and_forgets_only_what_was_drawn_over(tmp_path: Path) -> None:
    log = tmp_path / "rank0.log"
    log.write_bytes(b"one\ntw")
    tail = LineTail(log)
    assert tail.read(10.0) == [b"one"]
    append(log, b"o\r\n\rprogress 1%\rprogress 2%\rprogress 3%")
    assert tail.read(10.1) == [b"two", b"progress 2%"]
    append(log, b"\rprogress 4%\rprogress 5%")
    assert tail.read(10.2) == []
    assert tail.read(12.0) == [b"progress 4%"]
    append(log, b"\rdone\n" + b"x" * 200_000)
    done, *pieces = tail.read(12.1)
    assert (done, b"".join([*pieces, *tail.rest()])) == (b"done", b"x" * 200_000)
    assert harmless(b"\x1b[31mred\x1b[0m\x1b]0;title\x07") == (
        b"\x1b[31mred\x1b[0m\\x1b]0;title\\x07\x1b[0m"
    )


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


TRAINER = """
import os, torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(6):
    if step == 4 and dist.get_rank() == 1:
        raise KeyError("of rank 1")
    optimizer.zero_grad()
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
dist.destroy_process_group()
"""


def test_a_torch_trainer_is_watched_and_its_first_failure_told_last(tmp_path: Path) -> None:
    """Two gloo ranks of torchrun: steps are recorded, the manifest knows how many ranks ran."""
    pytest.importorskip("torch", reason="needs the engine extra")
    home = tmp_path / "home"
    torchrun = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    trainer = script(tmp_path / "train.py", TRAINER)
    done = run(home, "--", *torchrun, trainer, OMP_NUM_THREADS="1")
    assert done.returncode == 1
    *_, failed, log, begin = [line for line in done.stderr.splitlines() if "|   " not in line][:-1]
    assert failed.startswith("rank 1 on ")
    assert "failed first: exit code 1" in failed
    assert log.endswith("rank1.log")
    assert begin == "  | Traceback (most recent call last):"
    assert done.stderr.rstrip().endswith("KeyError: 'of rank 1'")
    assert "not watched" not in done.stdout + done.stderr
    told = manifest(home)
    assert (told["world_size"], told["status"]) == (2, "failed")
    asked = subprocess.run(
        [*OPSUITE[:-1], "query", "SELECT rank, count(*) FROM steps GROUP BY rank ORDER BY rank",
         "--json"],
        env=environment(home), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(json.loads(asked.stdout)) == 2


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
