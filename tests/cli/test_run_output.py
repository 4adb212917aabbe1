"""What ``opsuite run`` keeps, shows and repeats: gone readers, full disks, bounds, escapes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from collectors.daemon.journal import Journal
from collectors.daemon.log_watch import LogWatch, read_at_end
from collectors.query.direct import Store
from collectors.run import RunDirectory
from opsuite.running import launcher_log
from opsuite.running.exit_reason import explain_failure
from opsuite.running.hang_told import hang_told
from opsuite.running.launcher_log import LauncherLog
from opsuite.watchdog.voice import Voice

if TYPE_CHECKING:
    from typing import IO

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="opsuite run needs Linux")
OPSUITE = [sys.executable, "-P", "-m", "opsuite.cli.main"]
PYTHON = sys.executable


def start(
    home: Path, *command: str, stdout: int | IO[bytes], stderr: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    variables = {
        **os.environ,
        "OPSUITE_HOME": str(home),
        "OPSUITE_WATCHDOG": "0",
        "OPSUITE_COLLECT": "0",
        "OMP_NUM_THREADS": "1",
    }
    words = [*OPSUITE, "run", "--", *command]
    return subprocess.Popen(words, stdout=stdout, stderr=stderr, env=variables)


def log_of(home: Path) -> Path:
    (found,) = home.glob("runs/*/logs/launcher.log")
    return found


def test_a_command_whose_reader_goes_away_ends_of_it(tmp_path: Path) -> None:
    child = start(tmp_path, "yes", stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.read(4) == b"y\ny\n"
    child.stdout.close()
    _, said = child.communicate(timeout=20)
    assert child.returncode == 1
    assert b"killed by SIGPIPE" in said
    assert b"who read its output has gone away" in said
    assert log_of(tmp_path).read_bytes().startswith(b"y\ny\n")


def test_a_failure_is_told_by_the_exit_code_where_nobody_reads(tmp_path: Path) -> None:
    child = start(
        tmp_path, "sh", "-c", "sleep 0.3; exit 3", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith(b"run ")
    child.stdout.close()
    assert child.wait(20) == 1


def test_a_full_disk_behind_stdout_ends_nothing(tmp_path: Path) -> None:
    lines = "import sys\nfor n in range(5): print(n, flush=True)\nprint('said', file=sys.stderr)"
    with Path("/dev/full").open("wb") as full:
        child = start(tmp_path, PYTHON, "-c", lines, stdout=full)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 0
    assert b"said" in said
    assert sorted(log_of(tmp_path).read_text().split()) == ["0", "1", "2", "3", "4", "said"]


def test_the_log_of_an_endless_command_has_a_bound_and_its_last_words(tmp_path: Path) -> None:
    log = LauncherLog(tmp_path, most_bytes=1000)
    for number in range(1000):
        log.keep(b"line %d\n" % number)
    log.close()
    assert log.bounded
    kept = [(tmp_path / name).read_text() for name in (launcher_log.OLDER, launcher_log.NAME)]
    assert max(map(len, kept)) < 1100
    numbers = [int(line.split()[1]) for line in "".join(kept).splitlines() if line[0] == "l"]
    assert numbers == list(range(numbers[0], 1000))
    assert len("".join(kept)) > 1000
    assert launcher_log.read_tail(tmp_path, 1500) == "".join(kept).encode()[-1500:]
    assert launcher_log.read_tail(tmp_path / "none", 10) == b""


def test_what_a_rank_said_has_no_power_over_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "launcher.log"
    log.write_text(
        "Traceback (most recent call last):\n  x\nValueError: \x1b]0;title\x07\x1b[2J\x9b2J\n"
    )
    told = explain_failure(tmp_path, 1, {})
    assert told.splitlines()[-1].endswith("ValueError: \\x1b]0;title\\x07\\x1b[2J\\x9b2J")


def test_a_verdict_is_repeated_unless_the_run_went_on(tmp_path: Path) -> None:
    voice = Voice(tmp_path)
    verdict = ["run a-1 has stopped stepping: 16 s", "rank 1 never came", "bundle: /b"]
    assert hang_told(tmp_path, "a-1") == []
    voice.say(["run a-1 has stopped stepping: 9 s", "rank 0 never came", "bundle: /a"])
    voice.say(["run a-1 went on after 20 s"])
    assert hang_told(tmp_path, "a-1") == []
    voice.note(["RAS of NCCL"])
    voice.say(["a note", *verdict])
    voice.note(["opsuite: still working"])
    voice.say(["run a-1 was interrupted"])
    assert hang_told(tmp_path, "a-1") == verdict


NOISE = """
import os, time, sys
logs = f"{os.environ['OPSUITE_HOME']}/runs/{os.environ['OPSUITE_RUN']}/logs/watchdog.log"
said = ["has stopped stepping: 16 s", "rank 1 on h never came", "bundle: /b"]
head = f"run {os.environ['OPSUITE_RUN']} "
with open(logs, "a") as log:
    for number, line in enumerate(said):
        log.write(f"2026-01-01 00:00:00 opsuite: {'' if number else head}{line}\\n")
print("ready", flush=True)
try:
    time.sleep(60)
finally:
    print("noise\\n" * 20, file=sys.stderr)
"""


def test_an_interrupted_hang_ends_with_its_verdict(tmp_path: Path) -> None:
    child = start(tmp_path, PYTHON, "-c", NOISE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(2)
    _, said = child.communicate(timeout=20)
    assert child.returncode == 130
    last = said.decode().splitlines()[-4:]
    assert last[0] == "it hung before:"
    assert last[1].endswith("has stopped stepping: 16 s")
    assert last[2:] == ["rank 1 on h never came", "bundle: /b"]


def events(home: Path) -> list[tuple[object, ...]]:
    with Store.open(home) as store:
        return store.rows("SELECT rule, count FROM log_events ORDER BY rule")


def test_trouble_in_the_log_of_a_short_run_is_an_event_without_a_collector(tmp_path: Path) -> None:
    child = start(tmp_path, "echo", "NCCL error 5", stdout=subprocess.DEVNULL)
    child.communicate(timeout=20)
    assert events(tmp_path) == [("nccl_error", 1)]


@pytest.mark.parametrize("collector_first", [True, False])
def test_logs_are_read_by_one_only(home: Path, collector_first: bool) -> None:
    """A collector that was started anew reads on; nobody reads after somebody else."""
    run = RunDirectory.create(
        home, name="test", kind="training", command=[], config={}, world_size=1
    )
    (run.logs / "rank0.log").write_text("NCCL error 5\n" + "x" * (9 << 20) + "\nSegmentation fault")
    journal = Journal()
    watch = LogWatch(journal)
    if collector_first:
        watch.look([run])
    run.finish("failed", 1)
    read_at_end(run)
    for _ in range(3):
        watch.look([run])
    watch.look([])
    journal.keep(())
    assert events(home) == [("crash", 1), ("nccl_error", 1)]


SPAWNS = """
import os, sys
import torch, torch.distributed as dist, torch.multiprocessing as mp

def train(rank, path):
    print("before", rank)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    print("trains", rank)
    print("warns", rank, file=sys.stderr)
    os.system("echo child of $OPSUITE_TOLD")
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    print("parent")
    mp.start_processes(train, args=(sys.argv[1],), nprocs=2, start_method="fork")
"""


def test_ranks_of_a_spawning_parent_have_logs_from_where_they_are_known(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the engine extra")
    script = tmp_path / "spawns.py"
    script.write_text(SPAWNS, encoding="utf-8")
    home = tmp_path / "home"
    child = start(home, PYTHON, str(script), str(tmp_path / "meet"), stdout=subprocess.PIPE)
    shown, said = child.communicate(timeout=100)
    assert child.returncode == 0, said
    lines = shown.decode().splitlines()
    assert {"parent", "before 0", "before 1"} <= set(lines)
    for rank in range(2):
        own = [line for line in lines if line.startswith(f"[rank{rank}] ")]
        words = [f"trains {rank}", f"warns {rank}", "child of"]
        assert own == [f"[rank{rank}] {word}" for word in words]
