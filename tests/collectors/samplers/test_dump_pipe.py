"""Asking for a flight recorder through a named pipe, with a process that imitates NCCL's thread."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from collectors.errors import TimedOut
from collectors.samplers.dump_pipe import PIPE, ask_by_pipe
from collectors.samplers.flight_recorder import read_flight_dump
from collectors.samplers.sampler import Absent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# As ProcessGroupNCCL.hpp's DumpPipe: made anew, opened for reading without waiting, polled.
LISTENER = """
import os, pickle, sys, time
os.chdir(sys.argv[1])
os.mkfifo("pipe_3.pipe")
pipe = os.open("pipe_3.pipe", os.O_RDONLY | os.O_NONBLOCK)
print("ready", flush=True)
while True:
    time.sleep(0.05)
    if os.read(pipe, 128):
        data = pickle.dumps({"version": "2.10", "entries": [], "at": time.time()}, 2)
        with open("trace_3", "wb", buffering=0) as file:
            file.write(data[:20])
            time.sleep(0.2)
            file.write(data[20:])
"""
ENVIRON = {PIPE: "pipe_", "TORCH_FR_DUMP_TEMP_FILE": "trace_"}


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Rank 3, which listens in ``tmp_path``."""
    command = [sys.executable, "-c", LISTENER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_the_dump_that_was_asked_for_is_given_each_time(
    tmp_path: Path, listener: subprocess.Popen[str]
) -> None:
    """Whole, and not the one that lay there before; by way of the process's own directory."""
    directory = tmp_path.__class__(f"/proc/{listener.pid}/cwd")
    times = []
    for _ in range(2):
        path = ask_by_pipe(ENVIRON, 3, directory=directory)
        assert read_flight_dump(path).rank == 3
        times.append(pickle.loads(path.read_bytes())["at"])
    assert times[0] < times[1]


def test_a_process_that_does_not_answer_is_told(
    tmp_path: Path, listener: subprocess.Popen[str]
) -> None:
    listener.send_signal(signal.SIGSTOP)
    for _ in range(2):
        with pytest.raises(TimedOut, match=r"its flight recorder within 0\.3 s"):
            ask_by_pipe(ENVIRON, 3, directory=tmp_path, timeout_s=0.3)
    listener.kill()
    listener.wait()
    with pytest.raises(Absent, match="nobody listens"):
        ask_by_pipe(ENVIRON, 3, directory=tmp_path)


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, "start the job with TORCH_NCCL_DEBUG_INFO_PIPE_FILE="),
        (ENVIRON | {"TORCH_FR_BUFFER_SIZE": "0"}, "start the job with TORCH_FR_BUFFER_SIZE=2000"),
        (ENVIRON, "the job does not use NCCL"),
    ],
)
def test_without_a_pipe_it_is_said_what_to_set(
    tmp_path: Path, environ: dict[str, str], why: str
) -> None:
    with pytest.raises(Absent, match=why):
        ask_by_pipe(environ, 0, directory=tmp_path)


def test_nothing_is_written_into_what_is_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "pipe_0.pipe").write_text("precious")
    with pytest.raises(Absent, match="is no pipe"):
        ask_by_pipe(ENVIRON, 0, directory=tmp_path)
    assert (tmp_path / "pipe_0.pipe").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write any pipe")
def test_a_pipe_of_somebody_else_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe_0.pipe", 0o400)
    with pytest.raises(Absent, match="as the user of the job"):
        ask_by_pipe(ENVIRON, 0, directory=tmp_path)
