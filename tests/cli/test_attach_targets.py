"""Which processes of a tree are the ranks of a job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import Unreachable, UsageError
from opsuite.attaching.process import Process, has_torch, is_hidden, look_up, own_line, still_there
from opsuite.attaching.targets import find_targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from opsuite.attaching.targets import Targets

pytestmark = pytest.mark.once


def process(pid: int, parent: int, **told: Any) -> Process:
    environ = told.pop("environ", {})
    return Process(pid=pid, parent=parent, born_s=float(pid), environ=environ, **told)


def rank(pid: int, parent: int, number: int, **told: Any) -> Process:
    environ = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    return process(pid, parent, environ=environ | told.pop("environ", {}), **told)


def find(
    given: list[int],
    *processes: Process,
    hidden: Callable[[int], bool] = lambda _: False,
    waiting: tuple[int, ...] = (),
    without_torch: tuple[int, ...] = (),
    ours: tuple[int, ...] = (),
) -> Targets:
    return find_targets(
        given,
        {each.pid: each for each in processes},
        is_hidden=hidden,
        waits_for_children=waiting.__contains__,
        has_torch=lambda pid: pid not in without_torch,
        ours=ours,
    )


def numbers(targets: Targets) -> dict[int, int]:
    return {target.rank: target.pid for target in targets.ranks}


JOB = (
    process(10, 1, name="bash", python=False),
    process(11, 10, name="pt_elastic"),
    rank(12, 11, 1),
    rank(13, 11, 0),
    rank(14, 12, 1, name="pt_data_worker"),
    rank(15, 13, 0, command=("python", "-m", "torch._inductor.compile_worker")),
    rank(16, 15, 0),
)


@pytest.mark.parametrize("given", [[10], [11], [12, 13], [13, 12, 11], [13, 12, 13]])
def test_from_a_shell_from_torchrun_or_the_ranks_themselves(given: list[int]) -> None:
    targets = find(given, *JOB)
    assert numbers(targets) == {0: 13, 1: 12}
    assert (targets.world_size, targets.missing, targets.notes) == (2, (), ())


def test_workers_of_a_rank_are_not_ranks() -> None:
    assert numbers(find([12], *JOB)) == {1: 12}
    assert numbers(find([13], *JOB)) == {0: 13}


def test_who_starts_ranks_is_none_even_where_it_has_a_number() -> None:
    """A scheduler gives RANK to the pod, and torchrun to the ranks in it."""
    pod = {"RANK": "0", "WORLD_SIZE": "1"}
    agent = process(11, 1, name="pt_elastic", environ=pod)
    assert numbers(find([11], agent, rank(12, 11, 0))) == {0: 12}
    assert numbers(find([11], agent, rank(12, 11, 0), rank(13, 11, 1))) == {0: 12, 1: 13}


def test_a_wrapper_around_each_rank() -> None:
    wrapped = (
        rank(12, 1, 0, name="bash", python=False),
        rank(13, 12, 0),
        rank(14, 13, 0, name="pt_data_worker"),
    )
    assert numbers(find([12], *wrapped)) == {0: 13}


def test_ranks_of_slurm_and_of_open_mpi() -> None:
    slurm = process(5, 1, environ={"SLURM_PROCID": "3", "SLURM_NTASKS": "8"})
    assert numbers(find([5], slurm)) == {3: 5}
    assert find([5], slurm).world_size == 8
    mpi = process(5, 1, environ={"OMPI_COMM_WORLD_RANK": "1", "SLURM_PROCID": "0"})
    assert numbers(find([5], mpi)) == {1: 5}


def test_a_rank_that_is_not_there_is_missing_only_where_all_were_asked_for() -> None:
    size = {"LOCAL_WORLD_SIZE": "3"}
    job = (process(11, 1), rank(12, 11, 0, environ=size), rank(13, 11, 2, environ=size))
    assert find([11], *job).missing == (1,)
    assert find([12, 13], *job).missing == ()


def test_without_numbers_they_are_told_by_order() -> None:
    single = (process(5, 1), process(6, 5, name="pt_data_worker"), process(7, 5))
    assert numbers(find([5], *single)) == {0: 5}
    assert find([5], *single).notes == ()
    two = find([9, 8], process(8, 1), process(9, 1))
    assert numbers(two) == {0: 9, 1: 8}
    assert "given" in two.notes[0]
    tracker = process(6, 5, command=("python", "-c", "from multiprocessing.resource_tracker"))
    spawn = (process(5, 1), tracker, process(8, 5), process(7, 5))
    spawned = find([5], *spawn, waiting=(5,))
    assert numbers(spawned) == {0: 7, 1: 8}
    assert "spawned" in spawned.notes[0]


def test_ranks_of_another_user_are_told_from_their_torchrun() -> None:
    agent = process(11, 1, environ=None, command=("/usr/bin/python", "/opt/bin/torchrun", "x.py"))
    job = (agent, process(12, 11, environ=None), process(13, 11, environ=None))
    assert numbers(find([11], *job)) == {0: 12, 1: 13}


def test_below_what_everything_descends_from_only_what_looks_like_a_rank_is_taken() -> None:
    init = process(1, 0, name="init", python=False)
    daemon = process(20, 1, command=("python", "-P", "-m", "opsuite.cli.main", "collect"))
    watchdog = rank(21, 1, 0, command=("python", "-P", "-m", "opsuite.watchdog", "/runs/a"))
    script = process(22, 1, command=("python", "/opt/bin/opsuite", "run", "--", "torchrun"))
    shop = process(23, 1, command=("python", "/srv/shop.py"))
    above = process(24, 1, command=("python", "/srv/notebook.py"))
    train = process(30, 22, command=("python", "/home/me/train.py"))
    around = (init, daemon, watchdog, script, shop, above)
    assert numbers(find([1], *around, train, without_torch=(23,), ours=(24,))) == {0: 30}
    assert numbers(find([1], *around, *JOB, ours=(24,))) == {0: 13, 1: 12}
    with pytest.raises(Unreachable, match="looks like a rank"):
        find([1], *around, without_torch=(23,), ours=(24,))
    with pytest.raises(UsageError, match="2 programs") as caught:
        find([1], *around, train, ours=(24,))
    assert "process 23 (shop)" in caught.value.where
    assert numbers(find([23], shop, without_torch=(23,))) == {0: 23}  # who names it, means it
    assert os.getppid() in own_line()


def test_two_jobs_are_told_apart() -> None:
    with pytest.raises(UsageError, match="2 jobs: rank 0 is there 2 times"):
        find([1], process(1, 0, python=False), rank(12, 1, 0), rank(13, 1, 0))


def test_each_number_that_leads_nowhere_is_told_with_its_reason() -> None:
    given = (
        process(3, 1, name="sleep", python=False),
        process(4, 1, state="zombie"),
        rank(5, 1, 0),
    )
    targets = find([2, 3, 4, 5, 6], *given, hidden=lambda pid: pid == 6)
    assert numbers(targets) == {0: 5}
    assert targets.refused[2] == "there is no such process"
    assert "(sleep)" in targets.refused[3]
    assert "zombie" in targets.refused[4]
    assert "hidepid" in targets.refused[6]
    with pytest.raises(Unreachable) as caught:
        find([2, 4], *given)
    assert caught.value.exit_code == 3
    assert "2: there is no such process" in caught.value.where
    assert "4: it has ended" in caught.value.where


PARENT = """
import os, subprocess, sys
inner = "import os, sys, time; os.fork(); print(os.getpid(), flush=True); time.sleep(60)"
ranks = [
    subprocess.Popen([sys.executable, "-c", inner], env=os.environ | {"RANK": str(rank)})
    for rank in range(2)
]
print("started", *(rank.pid for rank in ranks), flush=True)
sys.stdin.read()
for child in ranks:
    child.kill()
os.killpg(0, 9)
"""


def test_a_real_tree_of_processes() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline() for _ in range(5)]
        [started] = [line.split()[1:] for line in lines if line.startswith("started")]
        processes = look_up([parent.pid])
        targets = find_targets(
            [parent.pid],
            processes,
            is_hidden=is_hidden,
            waits_for_children=lambda _: False,
            has_torch=has_torch,
        )
        rank = targets.ranks[0].process
        there = still_there(rank)
        parent.communicate()
    assert [target.pid for target in targets.ranks] == [int(pid) for pid in started]
    assert len(processes) == 5  # the parent, two ranks, and a fork of each
    assert there
    _wait_until_gone(rank)


def _wait_until_gone(rank: Process) -> None:
    deadline = time.monotonic() + 5
    while still_there(rank):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_this_process_is_no_target_of_its_own() -> None:
    assert os.getpid() not in look_up([os.getppid()])
    assert not is_hidden(os.getpid())
    assert not is_hidden(2**22 + 1)
