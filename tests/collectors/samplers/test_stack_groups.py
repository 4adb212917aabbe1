"""Equal stacks are told together, the odd one first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import collectors
from collectors.samplers.stack_groups import (
    StackHolder,
    from_entries,
    group_stacks,
    render_groups,
)
from collectors.samplers.thread_stack import StackFrame
from collectors.samplers.user_code import users_frame

ROOT = Path(collectors.__file__).parent.parent


def _frame(function: str, path: str, line: int) -> StackFrame:
    return StackFrame(function, path, path.rpartition("/")[2], line)


MODULE = _frame("<module>", "/home/a/train.py", 90)
REDUCE = _frame("all_reduce", "/v/lib/python3.11/site-packages/torch/distributed/c10d.py", 3245)
WATCHED = _frame("enter", str(ROOT / "engine" / "watching" / "collectives.py"), 70)
WAITS = (REDUCE, MODULE)
LOADS = (_frame("DataSet.get", "/home/a/data.py", 12), MODULE)


def _rank(rank: int, **more: Any) -> StackHolder:
    return StackHolder(role="trainer", rank=rank, pid=100 + rank, **more)


def test_the_odd_rank_comes_first_and_ranks_are_told_compactly() -> None:
    """What opsuite put there, and how a reader names a method, makes no difference."""
    stacks: list[tuple[StackHolder, tuple[StackFrame, ...]]]
    stacks = [(_rank(rank), WAITS) for rank in (7, 0, 1, 2)]
    stacks += [(_rank(3), (WATCHED, *WAITS)), (_rank(6), WAITS)]
    stacks += [(_rank(5, stopped=True), LOADS)]
    groups = group_stacks(stacks)
    assert render_groups(groups) == (
        "1 of 7: rank 5, process 105 (stopped)\n"
        "  DataSet.get (data.py:12)\n"
        "  <module> (train.py:90)\n"
        "\n"
        "6 of 7: ranks 0-3,6,7\n"
        "  all_reduce (c10d.py:3245)\n"
        "  <module> (train.py:90)"
    )
    short = (_frame("get", "/home/a/data.py", 12), MODULE)
    assert len(group_stacks([(_rank(0), LOADS), (_rank(1), short)])) == 1
    other_line = (_frame("get", "/home/a/data.py", 13), MODULE)
    assert len(group_stacks([(_rank(0), LOADS), (_rank(1), other_line)])) == 2


def test_of_two_ranks_the_one_in_no_collective_is_the_odd_one() -> None:
    groups = group_stacks([(_rank(0), WAITS), (_rank(1), LOADS)])
    assert [group.holders[0].rank for group in groups] == [1, 0]


def test_children_are_counted_apart_and_after_their_ranks() -> None:
    worker = [(_rank(rank, child="loader worker"), LOADS) for rank in (0, 1)]
    told = render_groups(group_stacks([*worker, (_rank(0), WAITS), (_rank(1), ())]))
    assert [line for line in told.splitlines() if " of " in line] == [
        "1 of 2: rank 1, process 101",
        "1 of 2: rank 0, process 100",
        "2 of 2 loader workers: loader worker of ranks 0,1, processes 100, 101",
    ]
    assert "no Python frame" in told


def test_entries_of_a_reading_are_grouped_by_their_main_threads() -> None:
    frames = [{"function": "f", "file": "a.py", "path": "/x/a.py", "line": 3}]
    entry: dict[str, Any] = {
        "role": "trainer",
        "rank": 0,
        "pid": 7,
        "main": False,
        "frames": frames,
    }
    entries: list[dict[str, Any]] = [
        entry,
        entry | {"main": True, "frames": [*frames, *frames]},
        entry | {"main": False},
        {"role": "server", "rank": None, "pid": 8, "error": "ptrace is not allowed"},
        {"role": "server", "rank": None, "pid": 9, "frames": [{**frames[0], "path": "/y.py"}]},
    ]
    stacks, unread = from_entries(entries)
    assert [len(frames) for _, frames in stacks] == [2, 1]
    assert render_groups(group_stacks(stacks), unread).splitlines() == [
        "1 of 1: server, process 9",
        "  f (a.py:3)",
        "",
        "1 of 1: rank 0, process 7",
        "  f (a.py:3)",
        "  f (a.py:3)",
        "",
        "not read: server, process 8: ptrace is not allowed",
    ]


def test_the_users_line_is_found_on_a_stack() -> None:
    assert users_frame((WATCHED, *WAITS)) == MODULE
    stock = _frame("train", "/v/lib/python3.11/site-packages/transformers/trainer.py", 2000)
    threads = _frame("wait", "/usr/lib/python3.11/threading.py", 327)
    assert users_frame((threads, REDUCE, stock)) == stock
    assert users_frame((threads, REDUCE)) is None
