"""What can go wrong, or only take its time, in the trainers beside it.

They call these places of a step; what happens there is chosen on the command line. A rank that
enters a deadlock prints one line first: ``FAULT`` and JSON of rank, pid, time (of the monotonic
clock), and the lines of the trainer's own files that lead there, the innermost first.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

HERE = Path(__file__).parent
DEADLOCKS = (
    "loader",
    "loader-worker",
    "lock",
    "forward",
    "before-collective",
    "wrong-collective",
    "extra-collective",
    "stop",
)
INNOCENTS = ("slow-first-step", "long-checkpoint", "long-compile", "long-evaluation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is wrong, and where."""
    parser.add_argument("--slow-rank", type=int, default=-1)
    parser.add_argument("--slow-s", type=float, default=0.05, help="seconds more a step")
    parser.add_argument("--slow-from", type=int, default=0)
    parser.add_argument("--slow-to", type=int, default=1 << 30)
    parser.add_argument(
        "--slow-in", choices=("dataset", "forward", "backward", "loop"), default="forward"
    )
    parser.add_argument("--slow-busy", action="store_true", help="compute instead of sleeping")
    parser.add_argument("--deadlock", choices=DEADLOCKS)
    parser.add_argument("--on-rank", type=int, default=0)
    parser.add_argument("--at-step", type=int, default=20)
    parser.add_argument("--innocent", choices=INNOCENTS)
    parser.add_argument("--innocent-s", type=float, default=40.0)


class Trouble:
    """Is asked at each place of a step; does nothing unless told to."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.rank = int(os.environ.get("RANK", "0"))
        self.step = 0
        self._calls = 0

    def begin(self, step: int) -> None:
        """Step ``step`` begins; its batch is there."""
        self.step = step
        self._slow("loop")
        if self._deadlocks("lock"):
            hold_a_lock()
        if self._deadlocks("stop"):
            announce()
            os.kill(os.getpid(), signal.SIGSTOP)

    def in_dataset(self, *, batch_size: int) -> None:
        """A sample is fetched, by the rank or by a worker of its loader."""
        self._calls += 1
        worker = torch.utils.data.get_worker_info()
        workers = worker.num_workers if worker else 1
        self.step = (self._calls - 1) // batch_size * workers + (worker.id if worker else 0)
        self._slow("dataset", parts=batch_size)
        if self._deadlocks("loader-worker" if worker else "loader"):
            read_forever()

    def in_forward(self) -> None:
        """The model computes."""
        self._slow("forward")
        if self._deadlocks("forward"):
            announce()
            time.sleep(1e6)
        if self.args.innocent == "slow-first-step" and self.step == 0:
            time.sleep(self.args.innocent_s)

    def in_backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """A gradient has come."""
        self._slow("backward")
        return gradient

    def before_collective(self) -> None:
        """The loss is about to be averaged."""
        if self._deadlocks("before-collective"):
            announce()
            time.sleep(1e6)
        if self._deadlocks("wrong-collective"):
            announce()
            dist.all_gather(list(torch.zeros(dist.get_world_size(), 3)), torch.zeros(3))
        if self._deadlocks("extra-collective"):
            announce()
            dist.barrier()

    def save(self, state: Any, path: Path) -> None:
        """A checkpoint is written, maybe to a file system that is far away."""
        if self.args.innocent == "long-checkpoint":
            torch.save(state, FarFile(path, self.args.innocent_s))
        else:
            torch.save(state, path)

    def compile(self, model: torch.nn.Module) -> None:
        """Have the model compiled, by a compiler that thinks for long."""
        pauses = [self.args.innocent_s]

        def backend(graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
            time.sleep(pauses.pop() if pauses else 0)
            return graph.forward

        if self.args.innocent == "long-compile":
            model.compile(backend=backend)

    def _slow(self, place: str, *, parts: int = 1) -> None:
        args = self.args
        if self.rank != args.slow_rank or place != args.slow_in:
            return
        if not args.slow_from <= self.step <= args.slow_to:
            return
        if args.slow_busy:
            compute(args.slow_s / parts)
        else:
            time.sleep(args.slow_s / parts)

    def _deadlocks(self, kind: str) -> bool:
        args = self.args
        return bool(
            args.deadlock == kind and self.rank == args.on_rank and self.step >= args.at_step
        )


class FarFile(io.BytesIO):
    """A file that takes its time to be written."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__()
        self.path = path
        self.seconds = seconds

    def write(self, data: Any) -> int:
        """Slow once; what is written in all goes to the disk with the last piece."""
        seconds, self.seconds = self.seconds, 0.0
        time.sleep(seconds)
        written = super().write(data)
        self.path.write_bytes(self.getvalue())
        return written


def announce() -> None:
    """Say that the next line does not return."""
    lines: list[str] = []
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        name = Path(frame.f_code.co_filename)
        if HERE in name.parents:
            lines.append(f"{name.name}:{line if lines else line + 1}")
    told = {
        "rank": int(os.environ.get("RANK", "0")),
        "pid": os.getpid(),
        "at": time.monotonic(),
        "lines": lines,
    }
    print("FAULT", json.dumps(told), flush=True)


def hold_a_lock() -> None:
    """Two threads take two locks, each in its own order."""
    first, second, taken = threading.Lock(), threading.Lock(), threading.Event()

    def other() -> None:
        with second:
            taken.set()
            with first:
                pass

    with first:
        threading.Thread(target=other, daemon=True).start()
        taken.wait()
        announce()
        second.acquire()


def read_forever() -> None:
    """Read from a pipe into which nobody writes."""
    reader, _writer = os.pipe()
    announce()
    os.read(reader, 1)


def compute(seconds: float) -> None:
    """Keep the core busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))
