"""What is made of several looks: whether ranks move, who is slow, who is in the wrong place."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from collectors.samplers.thread_stack import ProcessStacks, StackFrame, ThreadStack
from opsuite.attaching.collectives import ask_for_collectives
from opsuite.attaching.conclusion import State, conclude
from opsuite.attaching.look import Look, Sighting
from opsuite.attaching.motion import Motion, motion_of
from opsuite.attaching.permissions import (
    Tracer,
    missing_environments,
    missing_flight_recorder,
    missing_stacks,
)
from opsuite.attaching.process import Process
from opsuite.attaching.recording import Recording
from opsuite.attaching.session import Gathered
from opsuite.attaching.targets import Target, Targets
from opsuite.attaching.vitals import Vitals
from playbooks.finding import Confidence

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.once

LOOKS = 10
BACKWARD = (
    ("_engine_run_backward", "/x/site-packages/torch/autograd/graph.py", 979),
    ("train", "/w/train.py", 61),
)
BARRIER = (
    ("barrier", "/x/site-packages/torch/distributed/distributed_c10d.py", 5),
    ("train", "/w/train.py", 70),
)
REDUCE = (
    ("all_reduce", "/x/site-packages/torch/distributed/distributed_c10d.py", 9),
    ("train", "/w/train.py", 74),
)
LOCK = (("acquire", "/w/train.py", 12), ("train", "/w/train.py", 60))
FORWARD = (("forward", "/w/model.py", 5), ("train", "/w/train.py", 60))
LOADER = (
    ("get", "/usr/lib/python3.11/multiprocessing/queues.py", 113),
    ("_try_get_data", "/x/site-packages/torch/utils/data/dataloader.py", 1291),
    ("train", "/w/train.py", 58),
)
READS = (
    ("read", "/w/data.py", 4),
    ("fetch", "/x/site-packages/torch/utils/data/_utils/fetch.py", 54),
)
Call = tuple[tuple[str, str, int], ...]


def stacks(pid: int, calls: Call, child: str = "") -> ProcessStacks:
    if not calls:
        return ProcessStacks(pid=pid, rank_pid=pid, error="not allowed")
    frames = tuple(StackFrame(name, path, path.rpartition("/")[2], n) for name, path, n in calls)
    thread = ThreadStack(
        thread_id=1, name="MainThread", main=True, active=False, gil=False, frames=frames
    )
    rank_pid = pid % 1000
    return ProcessStacks(pid=pid, rank_pid=rank_pid, child=child, threads=(thread,))


def vitals(seconds: float, *, main: float, io: float = 0.0, state: str = "sleeping") -> Vitals:
    used = main * seconds
    return Vitals(
        state=state,
        cpu_s=used,
        main_cpu_s=used,
        main_wait_s=0.0,
        main_switches=0,
        rss_bytes=1,
        threads=1,
        read_bytes=0,
        written_bytes=0,
        family_cpu_s=used,
        family_io_bytes=int(io * seconds),
    )


def sighting(rank: int, second: int, told: dict[str, Any]) -> Sighting:
    calls = told["calls"]
    calls = calls(second) if callable(calls) else calls
    if calls is None:
        return Sighting(rank=rank, vitals=None, stacks=None)
    usage = {name: told[name] for name in ("io", "state") if name in told}
    child = told.get("child")
    return Sighting(
        rank=rank,
        vitals=vitals(float(second), main=told.get("main", 0.0), **usage),
        stacks=stacks(100 + rank, calls),
        children=(stacks(1100 + rank, child(second), "loader worker"),) if child else (),
    )


def target(rank: int, **told: Any) -> Target:
    environ = told.pop("environ", {"RANK": str(rank)})
    process = Process(pid=100 + rank, parent=1, environ=environ, user="alice", **told)
    return Target(rank=rank, process=process)


def seen(*ranks: dict[str, Any], world_size: int = 0, missing: tuple[int, ...] = ()) -> Gathered:
    looks = [
        Look(
            at_s=float(second),
            whole=True,
            ranks={rank: sighting(rank, second, told) for rank, told in enumerate(ranks)},
        )
        for second in range(LOOKS)
    ]
    targets = Targets(
        ranks=tuple(target(rank) for rank in range(len(ranks))),
        world_size=world_size or len(ranks),
        missing=missing,
    )
    return Gathered(targets=targets, looks=looks)


def turns(*calls: Call) -> Callable[[int], Call]:
    return lambda second: calls[second % len(calls)]


@pytest.mark.parametrize(
    ("told", "motion"),
    [
        ({"calls": LOCK}, Motion.STILL),
        ({"calls": LOCK, "main": 0.9}, Motion.BUSY),
        ({"calls": LOCK, "main": 0.05}, Motion.DOUBTFUL),
        ({"calls": LOCK, "io": 1e6}, Motion.BUSY),
        ({"calls": LOCK, "main": 0.9, "state": "stopped"}, Motion.STILL),
        ({"calls": turns(LOCK, FORWARD)}, Motion.MOVING),
        ({"calls": turns(LOADER, LOADER[1:])}, Motion.STILL),  # how it waits does not count
        ({"calls": LOADER, "child": turns(READS)}, Motion.STILL),
        ({"calls": LOADER, "child": turns(READS, READS[1:])}, Motion.MOVING),
        ({"calls": LOCK, "child": turns(READS, READS[1:])}, Motion.STILL),
        ({"calls": lambda second: LOCK if second < 5 else None}, Motion.ENDED),
    ],
)
def test_whether_a_rank_moves(told: dict[str, Any], motion: Motion) -> None:
    found = motion_of(0, seen(told).looks)
    assert found.motion is motion
    if motion is not Motion.ENDED:
        assert (found.looks, found.for_s) == (LOOKS, LOOKS - 1.0)


def culprits(gathered: Gathered) -> list[int]:
    verdict = conclude(gathered).verdict
    assert verdict is not None
    return [culprit.rank for culprit in verdict.culprits]


def test_who_does_not_come() -> None:
    assert culprits(seen({"calls": BACKWARD}, {"calls": LOCK})) == [1]
    assert culprits(seen({"calls": LOADER, "child": turns(READS)}, {"calls": BACKWARD})) == [0]
    assert culprits(seen({"calls": BACKWARD}, {"calls": FORWARD, "state": "stopped"})) == [1]
    # A rank that waits may be awake: NCCL's waits turn in circles.
    awake = {"calls": BACKWARD, "main": 1.0}
    assert culprits(seen(awake, {"calls": LOCK})) == [1]
    assert culprits(seen({"calls": BACKWARD}, missing=(1,), world_size=2)) == [1]


def test_a_short_look_is_not_certain() -> None:
    """It may have fallen into a long step; who is stopped is so whatever the step."""

    def confidence(*ranks: dict[str, Any]) -> Confidence:
        verdict = conclude(seen(*ranks)).verdict
        assert verdict is not None
        return verdict.confidence

    assert confidence({"calls": BACKWARD}, {"calls": LOCK}) is Confidence.LIKELY
    stopped = {"calls": FORWARD, "state": "stopped"}
    assert confidence({"calls": BACKWARD}, stopped) is Confidence.CERTAIN


def test_of_two_in_different_collectives_the_one_that_is_behind() -> None:
    backward, barrier, reduce = {"calls": BACKWARD}, {"calls": BARRIER}, {"calls": REDUCE}
    assert culprits(seen(backward, barrier)) == [1]
    assert culprits(seen(barrier, reduce)) == [0]
    assert culprits(seen(reduce, barrier)) == [1]
    assert culprits(seen(reduce, reduce, barrier)) == [2]


def test_what_is_no_hang() -> None:
    def state(*ranks: dict[str, Any], **options: Any) -> State:
        return conclude(seen(*ranks, **options)).state

    waits = {"calls": BACKWARD}
    saves = (("save", "/x/site-packages/torch/serialization.py", 3), *LOCK)
    assert state(waits, {"calls": turns(LOCK, FORWARD)}) is State.MOVING
    assert state(waits, {"calls": FORWARD, "main": 1.0}) is State.BUSY
    assert state(waits, {"calls": FORWARD, "main": 0.1}) is State.UNSURE
    busy = conclude(seen(waits, {"calls": FORWARD, "main": 1.0})).lines
    assert busy[0].startswith("busy: rank 1 at one place")
    assert busy[1] == "rank 1 is at model.py:5"
    assert state({"calls": BACKWARD, "main": 0.1}, waits) is State.UNSURE
    assert state(waits, {"calls": saves}) is State.LONG_WORK
    assert state({"calls": ()}, {"calls": ()}) is State.UNREAD
    assert state({"calls": lambda second: LOCK if second < 5 else None}) is State.ENDED


def test_who_is_not_seen_is_not_blamed() -> None:
    conclusion = conclude(seen({"calls": BACKWARD}, {"calls": BACKWARD}, world_size=4))
    assert conclusion.state is State.STUCK
    assert "among the 2 other ranks" in conclusion.lines[1]


def test_the_slowest_of_those_that_move() -> None:
    works = turns(FORWARD, LOCK, FORWARD)
    waits = turns(BACKWARD, BACKWARD, BACKWARD, FORWARD)
    lines = conclude(seen({"calls": waits}, {"calls": works})).lines
    assert lines[0] == "moving: 2 of 2 ranks change"
    assert lines[1].startswith("rank 1 is the slowest: in 0% of the looks")
    assert lines[1].endswith("mostly at model.py:5")
    assert len(conclude(seen({"calls": works}, {"calls": works})).lines) == 1


def test_what_each_missing_permission_costs() -> None:
    ranks = [target(0), target(1)]
    alice = Tracer(user="alice", capable=False, yama=1)
    assert "as alice or root" in Tracer(user="bob", capable=False, yama=0).remedy("alice")
    assert "ptrace_scope=0" in alice.remedy("alice")
    assert "SYS_PTRACE" in Tracer(user="alice", capable=False, yama=0).remedy("alice")
    denied = "the stack of process {} cannot be read: ptrace is not allowed\n  do:    ask root"
    [cost] = missing_stacks({0: denied.format(100), 1: denied.format(101)}, ranks)
    assert str(cost).splitlines() == [
        "the stacks of ranks 0, 1 cannot be read: ptrace is not allowed",
        "  costs: which Python line they are at, so the verdict rests on the other ranks",
        "  do:    ask root",
    ]
    assert missing_stacks({0: ""}, ranks) == []
    [hidden] = missing_environments([target(0), target(1, environ=None)], alice)
    assert "rank 1 may not" in hidden.what
    [without] = missing_flight_recorder([*ranks, target(2, environ=None)])
    assert "is not set in ranks 0, 1" in without.what
    assert missing_flight_recorder([target(0, environ={PIPE: "/x"})]) == []


PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
DUMP = {
    "version": "2.10",
    "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
    "pg_status": {
        "0": {
            "last_enqueued_collective": 7,
            "last_started_collective": 7,
            "last_completed_collective": 6,
        }
    },
    "entries": [],
}


@pytest.mark.skipif(sys.platform != "linux", reason="the directory of a process is in /proc")
def test_flight_recorders_are_asked_through_their_pipes(home: Path, tmp_path: Path) -> None:
    """Rank 0 has one and answers; rank 1's pipe is not there, which is told."""
    os.mkfifo(tmp_path / "pipe0.pipe")
    environ = {PIPE: f"{tmp_path}/pipe", "TORCH_FR_DUMP_TEMP_FILE": f"{tmp_path}/dump"}
    ranks = tuple(
        Target(rank=rank, process=Process(pid=os.getpid(), parent=1, environ=environ))
        for rank in range(2)
    )

    def answer() -> None:
        with (tmp_path / "pipe0.pipe").open("rb") as pipe:
            listening.set()
            assert pipe.read(1) == b"1"
        (tmp_path / "dump0").write_bytes(pickle.dumps(DUMP))

    listening = threading.Event()
    keeper = os.open(tmp_path / "pipe0.pipe", os.O_RDWR)  # so that opening it does not wait
    listener = threading.Thread(target=answer)
    listener.start()
    assert listening.wait(5)
    targets = Targets(ranks=ranks, world_size=2)
    recording = Recording.begin(home, targets, "asked", [])
    try:
        told = ask_for_collectives(recording, targets)
    finally:
        recording.finish("finished", 0)
        listener.join()
        os.close(keeper)
    [entry] = told.entries
    assert (entry.rank, entry.sequence, entry.completed) == (0, 7, 6)
    [cost] = [cost for cost in told.costs if "flight" in cost.what]
    assert "rank 1" in cost.what
