"""Each host sampler with its source present, absent, denied, and failing half-way."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import DataError
from collectors.samplers.disks import DiskSampler, RoomSampler
from collectors.samplers.memory import MemorySampler, PagingSampler
from collectors.samplers.network import NetworkSampler, TcpSampler
from collectors.samplers.pressure import PressureSampler
from collectors.samplers.processor import LoadSampler, ProcessorSampler, RunQueueSampler
from collectors.samplers.sampler import Absent, Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from collectors.samplers.sampler import Sampler

    Tree = Any  # the conftest's
    Clock = Any

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sampler, its source at two moments 2 s apart, and what it makes of the difference."""

    make: Callable[[Tree, Clock], Sampler]
    first: dict[str, str]
    then: dict[str, str]
    readings: dict[str, float]
    happenings: Sequence[Happening] = ()
    broken: str = "garbage \x00\xff 7"
    others: dict[str, str] = field(default_factory=dict)  # needed, but not its source

    @property
    def source(self) -> str:
        return next(iter(self.first))


def _stat(*columns: int) -> str:
    cores = "\n".join(f"cpu{core} {' '.join(str(c // 2) for c in columns)}" for core in (0, 1))
    total = " ".join(str(c) for c in columns)
    return f"cpu  {total} 0 0\n{cores}\nintr 5 6 7\nprocs_running 3\nprocs_blocked 1\n"


def _disk(reads: int, sectors: int, busy_ms: int) -> str:
    counts = f"{reads} 0 {sectors} {reads * 3} 0 0 {sectors * 2} 0 0 {busy_ms} 0 0 0 0 0 0 0"
    devices = {"sda": counts, "sda1": counts, "loop0": counts}
    return "".join(f"   8       0 {name} {text}\n" for name, text in devices.items())


def _net(received: int, errors: int, drops: int) -> str:
    rows = {
        "eth0.100": f"{received} 1 {errors} {drops} 0 0 0 0 {received * 2} 1 0 0 0 0 0 0",
        "idle0": "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
        "veth7": f"{received} 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0",
    }
    lines = [f"{name}: {counts}" for name, counts in rows.items()]
    return "\n".join(["Inter-| Receive | Transmit", " face |bytes", *lines, ""])


def _pressure(some_us: int) -> str:
    return (
        f"some avg10=1.50 avg60=0.00 avg300=0.00 total={some_us}\n"
        f"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )


def _vmstat(faults: int, killed: int) -> str:
    return f"nr_free_pages 5\npgfault {faults}\npgmajfault 0\npswpout {faults}\noom_kill {killed}\n"


def _schedstat(waited_ns: int) -> str:
    core = f"0 0 0 0 0 0 900 {waited_ns} 5"
    return f"version 17\ntimestamp 5\ncpu0 {core}\ndomain0 MC ff 0 0\ncpu1 {core}\n"


def _snmp(again: int) -> str:
    return f"Ip: Forwarding\nIp: 1\nTcp: InSegs OutSegs RetransSegs\nTcp: 5 6 {again}\n"


CASES = {
    "cpu": Case(
        make=lambda tree, _: ProcessorSampler(tree.root),
        first={"proc/stat": _stat(0, 0, 0, 0, 0, 0, 0, 0)},
        then={"proc/stat": _stat(40, 0, 20, 100, 20, 0, 0, 20)},
        readings={
            "host.cpu_util_pct": 40.0,
            "host.cpu_user_pct": 20.0,
            "host.cpu_system_pct": 10.0,
            "host.cpu_iowait_pct": 10.0,
            "host.cpu_steal_pct": 10.0,
            "host.busiest_core_pct": 40.0,
            "host.cores": 2,
            "host.tasks_running": 3,
            "host.tasks_blocked": 1,
        },
    ),
    "load": Case(
        make=lambda tree, _: LoadSampler(tree.root),
        first={"proc/loadavg": "0.50 0.1 0.1 1/2 3\n"},
        then={"proc/loadavg": "7.25 0.1 0.1 1/2 3\n"},
        readings={"host.load_1m": 7.25},
        broken="",
    ),
    "run-queue": Case(
        make=lambda tree, clock: RunQueueSampler(tree.root, clock=clock),
        first={"proc/schedstat": _schedstat(10**9)},
        then={"proc/schedstat": _schedstat(4 * 10**9)},
        readings={"host.run_queue_wait_s_per_s": 3.0},
        broken="version 17\ncpu0 1 2 3\n",
    ),
    "pressure": Case(
        make=lambda tree, clock: PressureSampler(tree.root, clock=clock),
        first={"proc/pressure/cpu": _pressure(0)},
        then={"proc/pressure/cpu": _pressure(500_000)},
        readings={
            "psi.cpu.some_pct": 25.0,
            "psi.cpu.full_pct": 0.0,
            "psi.cpu.some_avg10_pct": 1.5,
            "psi.cpu.full_avg10_pct": 0.0,
        },
    ),
    "memory": Case(
        make=lambda tree, _: MemorySampler(tree.root),
        first={"proc/meminfo": "MemTotal: 8 kB\n"},
        then={"proc/meminfo": "MemTotal: 8 kB\nMemAvailable: 2 kB\nDirty: 1 kB\nHugePages: 3\n"},
        readings={
            "host.memory_total_bytes": 8192,
            "host.memory_available_bytes": 2048,
            "host.swap_used_bytes": 0,
            "host.dirty_bytes": 1024,
        },
        broken="MemFree: 7 kB\n",
    ),
    "paging": Case(
        make=lambda tree, clock: PagingSampler(tree.root, clock=clock),
        first={"proc/vmstat": _vmstat(100, 4)},
        then={"proc/vmstat": _vmstat(300, 6)},
        readings={
            "host.page_faults_per_s": 100.0,
            "host.major_faults_per_s": 0.0,
            "host.swap_out_bytes_per_s": 100.0 * _PAGE_BYTES,
        },
        happenings=[Happening("host.oom_kill", {"count": 2}, 2.0)],
        broken="pgfault 3 4\n",
    ),
    "disks": Case(
        make=lambda tree, clock: DiskSampler(tree.root, clock=clock),
        first={"proc/diskstats": _disk(0, 0, 0)},
        then={"proc/diskstats": _disk(100, 40, 1000)},
        readings={
            "disk.sda.read_bytes_per_s": 20 * 512.0,
            "disk.sda.write_bytes_per_s": 40 * 512.0,
            "disk.sda.iops": 50.0,
            "disk.sda.util_pct": 50.0,
            "disk.sda.wait_s": 0.003,
        },
        others={"sys/block/sda/device/model": "a disk", "sys/block/loop0/size": "0"},
        broken="8 0 sda 1 2\n",
    ),
    "network": Case(
        make=lambda tree, clock: NetworkSampler(tree.root, clock=clock),
        first={"proc/net/dev": _net(1000, 7, 1)},
        then={"proc/net/dev": _net(3000, 9, 3)},
        readings={
            "net.eth0.100.rx_bytes_per_s": 1000.0,
            "net.eth0.100.tx_bytes_per_s": 2000.0,
            "net.eth0.100.errors_per_s": 1.0,
            "net.eth0.100.drops_per_s": 1.0,
        },
        happenings=[
            Happening("net.errors", {"interface": "eth0.100", "count": 2, "rx_errors": 2}, 2.0)
        ],
        broken="Inter-|\n face |\n eth0: 1 2\n",
    ),
    "tcp": Case(
        make=lambda tree, clock: TcpSampler(tree.root, clock=clock),
        first={"proc/net/snmp": _snmp(10)},
        then={"proc/net/snmp": _snmp(20)},
        readings={"host.tcp_retransmits_per_s": 5.0},
    ),
}
RATES = [name for name in CASES if name not in ("cpu", "load", "memory")]


@pytest.fixture
def case(request: pytest.FixtureRequest, tree: Tree) -> Case:
    """One of the cases, with its source at the first moment."""
    chosen = CASES[request.param]
    tree.write({**chosen.first, **chosen.others})
    return chosen


every = pytest.mark.parametrize("case", CASES, indirect=True)


def readings(found: Sequence[Reading | Happening]) -> dict[str, float]:
    return {one.name: one.value for one in found if isinstance(one, Reading)}


@every
def test_present(case: Case, tree: Tree, clock: Clock) -> None:
    """Rates come with the second reading, and nothing has happened at the first."""
    sampler = case.make(tree, clock)
    first = sampler.read()
    assert not [one for one in first if isinstance(one, Happening)]
    assert not [one.name for one in first if one.name.endswith("_per_s")]
    clock.now_s += 2.0
    tree.write(case.then)
    found = sampler.read()
    sampler.close()
    assert readings(found) == pytest.approx(case.readings)
    assert [one for one in found if isinstance(one, Happening)] == list(case.happenings)


@every
def test_absent_from_the_start_and_come_later(case: Case, tree: Tree, clock: Clock) -> None:
    sampler = case.make(tree, clock)
    tree.remove(case.source)
    with pytest.raises(Absent, match=r"there is no |PSI"):
        sampler.read()
    tree.write(case.first)
    sampler.read()
    clock.now_s += 2.0
    tree.write(case.then)
    assert readings(sampler.read()) == pytest.approx(case.readings)


@every
def test_denied(case: Case, tree: Tree, clock: Clock) -> None:
    """The kernel itself refuses, and the message says which file it is."""
    sampler = case.make(tree, clock)
    with tree.denied(case.source), pytest.raises(Absent, match="may not read") as told:
        sampler.read()
    assert case.source in str(told.value)
    assert sampler.read() is not None


@every
def test_failing_half_way(case: Case, tree: Tree, clock: Clock) -> None:
    """What cannot be understood is an error that names the file; then it goes on as before."""
    sampler = case.make(tree, clock)
    sampler.read()
    clock.now_s += 1.0
    tree.write({case.source: case.broken})
    with pytest.raises(DataError, match=case.source):
        sampler.read()
    tree.remove(case.source)
    (tree.root / case.source).mkdir()
    with pytest.raises(OSError, match="directory"):
        sampler.read()
    tree.remove(case.source)
    clock.now_s += 1.0
    tree.write(case.then)
    assert readings(sampler.read()) == pytest.approx(case.readings)


@pytest.mark.parametrize("case", RATES, indirect=True)
def test_counters_that_were_set_back_give_no_negative_rate(
    case: Case, tree: Tree, clock: Clock
) -> None:
    sampler = case.make(tree, clock)
    tree.write(case.then)
    sampler.read()
    clock.now_s += 2.0
    tree.write(case.first)
    found = sampler.read()
    assert not [one for one in found if isinstance(one, Happening) or one.value < 0]


def test_one_resource_that_fails_leaves_the_others(tree: Tree, clock: Clock) -> None:
    """It is told once, and again when it is well."""
    sampler = PressureSampler(tree.root, clock=clock)
    tree.write({"proc/pressure/cpu": _pressure(0), "proc/pressure/io": "some"})
    for told in (["sampler.failed"], []):
        found = sampler.read()
        assert "psi.cpu.some_avg10_pct" in readings(found)
        assert [one.name for one in found if isinstance(one, Happening)] == told
    tree.write({"proc/pressure/io": _pressure(0)})
    found = sampler.read()
    assert "psi.io.some_avg10_pct" in readings(found)
    [well] = [one for one in found if isinstance(one, Happening)]
    assert well == Happening("sampler.present", {"sampler": "pressure", "part": "io"})


def test_steady_errors_are_told_once_in_ten_seconds_with_how_many(tree: Tree, clock: Clock) -> None:
    sampler = NetworkSampler(tree.root, clock=clock)
    told = []
    for second in range(22):
        tree.write({"proc/net/dev": _net(1000, 5 * second, 0)})
        told += [one.value for one in sampler.read() if isinstance(one, Happening)]
        clock.now_s += 1.0
    assert told == [5.0, 50.0, 50.0]


def test_room(tree: Tree) -> None:
    """Of a directory that is there, is not, and may not be looked into."""
    directory = tree.root / "private" / "home"
    directory.mkdir(parents=True)
    sampler = RoomSampler(directory)
    assert readings(sampler.read())["host.home_free_bytes"] > 0
    with tree.denied("private"), pytest.raises(Absent, match="Permission denied"):
        sampler.read()
    directory.rmdir()
    with pytest.raises(Absent, match="No such"):
        sampler.read()
    sampler.close()
