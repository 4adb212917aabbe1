"""Control groups of version 1, 2 and both, as hosts and containers show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import DataError
from collectors.samplers.cgroup import CgroupSampler
from collectors.samplers.sampler import Absent, Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    Tree = Any  # the conftest's
    Clock = Any

V2 = "30 25 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 25 0:28 /job_7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
JOB = "sys/fs/cgroup/slurm/job_7"
STEP = f"{JOB}/step_0"


def v2(*, throttled: int = 0, killed: int = 0) -> dict[str, str]:
    """A job that is limited, and its step, in which the process is."""
    stat = f"nr_periods {10 + 2 * throttled}\nnr_throttled {throttled}\n"
    files = {
        "proc/self/mountinfo": f"22 27 0:21 / /proc rw - proc proc rw\n{V2}",
        "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
        f"{JOB}/cpu.max": "200000 100000\n",
        f"{JOB}/cpu.stat": f"usage_usec 5\n{stat}throttled_usec {throttled * 50_000}\n",
        f"{JOB}/memory.max": "8192\n",
        f"{JOB}/memory.current": "4096\n",
        f"{JOB}/memory.events": f"oom {killed}\noom_kill {killed}\n",
        f"{STEP}/cpu.max": "max 100000\n",
        f"{STEP}/memory.max": "max\n",
        f"{STEP}/memory.current": "1024\n",
        f"{STEP}/memory.events": "oom 0\noom_kill 0\n",
        "proc/77/cgroup": "0::/../elsewhere\n",
    }
    return files


def v1(*, throttled: int = 0, killed: int = 0) -> dict[str, str]:
    """The same in a container that sees the memory of its job as the topmost."""
    cpu, memory = "sys/fs/cgroup/cpu,cpuacct/slurm/job_7", "sys/fs/cgroup/memory"
    stat = f"nr_periods {10 + 2 * throttled}\nnr_throttled {throttled}\n"
    return {
        "proc/self/mountinfo": V1,
        "proc/self/cgroup": "9:memory:/job_7\n8:cpu,cpuacct:/slurm/job_7\n0::/\n",
        f"{cpu}/cpu.cfs_quota_us": "200000\n",
        f"{cpu}/cpu.cfs_period_us": "100000\n",
        f"{cpu}/cpu.stat": f"{stat}throttled_time {throttled * 50_000_000}\n",
        f"{memory}/memory.limit_in_bytes": "9223372036854771712\n",
        f"{memory}/memory.usage_in_bytes": "4096\n",
        f"{memory}/memory.oom_control": f"oom_kill_disable 0\noom_kill {killed}\n",
        "sys/fs/cgroup/unified/cgroup.procs": "",
    }


def readings(found: Sequence[Reading | Happening]) -> dict[str, float]:
    return {one.name: one.value for one in found if isinstance(one, Reading)}


def happenings(found: Sequence[Reading | Happening]) -> list[Happening]:
    return [one for one in found if isinstance(one, Happening)]


def make(tree: Tree, clock: Clock, pids: Sequence[int] = ()) -> CgroupSampler:
    return CgroupSampler(tree.root, lambda: pids, clock=clock)


def test_version_2_with_its_limits_above_the_process(tree: Tree, clock: Clock) -> None:
    tree.write(v2())
    sampler = make(tree, clock, [77, 4_000_000])
    memory = {
        "cgroup./slurm/job_7.memory_bytes": 4096.0,
        "cgroup./slurm/job_7.memory_limit_bytes": 8192.0,
        "cgroup./slurm/job_7/step_0.memory_bytes": 1024.0,
        "cgroup./slurm/job_7.cpu_limit": 2.0,
    }
    found = sampler.read()
    assert (readings(found), happenings(found)) == (memory, [])
    clock.now_s += 2.0
    tree.write(v2(throttled=10, killed=1))
    found = sampler.read()
    assert readings(found) == memory | {
        "cgroup./slurm/job_7.throttled_pct": 50.0,
        "cgroup./slurm/job_7.throttled_s_per_s": 0.25,
    }
    assert {one.name: dict(one.attributes) for one in happenings(found)} == {
        "cgroup.throttled": {
            "cgroup": "/slurm/job_7",
            "cpu_limit": 2.0,
            "periods": 10.0,
            "throttled_s": 0.5,
        },
        "cgroup.oom_kill": {"cgroup": "/slurm/job_7", "count": 1},
    }
    clock.now_s += 1.0
    tree.write(v2())
    found = sampler.read()
    assert happenings(found) == [], "counters that were set back"
    assert not [value for value in readings(found).values() if value < 0]


def test_version_1_as_a_container_sees_it(tree: Tree, clock: Clock) -> None:
    tree.write(v1())
    sampler = make(tree, clock)
    constant = {"cgroup./slurm/job_7.cpu_limit": 2.0, "cgroup./.memory_bytes": 4096.0}
    assert readings(sampler.read()) == constant
    clock.now_s += 2.0
    tree.write(v1(throttled=10, killed=2))
    found = sampler.read()
    assert readings(found) == constant | {
        "cgroup./slurm/job_7.throttled_pct": 50.0,
        "cgroup./slurm/job_7.throttled_s_per_s": 0.25,
    }
    assert {one.name: one.value for one in happenings(found)} == {
        "cgroup.throttled": 10.0,
        "cgroup.oom_kill": 2.0,
    }


def test_groups_come_with_the_processes_of_a_run(tree: Tree, clock: Clock) -> None:
    """A process that starts is looked at, at once; one that has ended is passed over."""
    tree.write(v2())
    pids: list[int] = []
    sampler = CgroupSampler(tree.root, lambda: pids, clock=clock)
    sampler.read()
    other = "sys/fs/cgroup/user"
    tree.write({"proc/9/cgroup": "0::/user\n", f"{other}/memory.max": "max\n"})
    tree.write({f"{other}/memory.current": "5\n"})
    pids += [9, 10]
    assert readings(sampler.read())["cgroup./user.memory_bytes"] == 5.0


@pytest.mark.parametrize("missing", ["proc/self/mountinfo", "proc/self/cgroup"])
def test_absent_and_denied(tree: Tree, clock: Clock, missing: str) -> None:
    tree.write(v2())
    with tree.denied(missing), pytest.raises(Absent, match=f"may not read .*{missing}"):
        make(tree, clock).read()
    tree.remove(missing)
    with pytest.raises(Absent, match=f"there is no .*{missing}"):
        make(tree, clock).read()


def test_no_group_that_says_anything_is_absent(tree: Tree, clock: Clock) -> None:
    tree.write({"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/\n"})
    (tree.root / "sys/fs/cgroup").mkdir(parents=True)
    with pytest.raises(Absent, match="no control group that"):
        make(tree, clock).read()
    tree.write({"proc/self/mountinfo": "22 27 0:21 / /proc rw - proc proc rw\n"})
    with pytest.raises(Absent, match="mounted"):
        make(tree, clock).read()


def test_what_fails_half_way_leaves_the_rest(tree: Tree, clock: Clock) -> None:
    """Garbage in one group, another that is denied, and at last all that is removed."""
    tree.write(v2())
    sampler = make(tree, clock)
    sampler.read()
    clock.now_s += 1.0
    tree.write({f"{JOB}/cpu.stat": "nr_periods\n"})
    with tree.denied(f"{STEP}/memory.current"):
        found = sampler.read()
    assert set(readings(found)) == {
        "cgroup./slurm/job_7.memory_bytes",
        "cgroup./slurm/job_7.memory_limit_bytes",
    }
    told = {one.attributes["part"]: one for one in happenings(found)}
    assert told["/slurm/job_7 cpu"].name == "sampler.failed"
    assert "cpu.stat" in told["/slurm/job_7 cpu"].attributes["reason"]
    assert "may not read" in told["/slurm/job_7/step_0 memory"].attributes["reason"]
    tree.remove(JOB)
    with pytest.raises(Absent, match="there is no"):
        sampler.read()
    with pytest.raises(Absent, match="no control group that"):
        sampler.read()


def test_garbage_in_the_tables_is_an_error(tree: Tree, clock: Clock) -> None:
    tree.write({**v2(), "proc/self/mountinfo": "30 25\n"})
    with pytest.raises(DataError, match="mountinfo"):
        make(tree, clock).read()
