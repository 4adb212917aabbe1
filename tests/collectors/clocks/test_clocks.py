"""From rows of collectives to the clocks of a run's hosts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from collectors.clocks.meetings import CollectiveRows
from collectors.clocks.tracker import Clock, ClockTracker, Member, estimate_clocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Times = NDArray[np.int64]

S = 10**9
NOW = 1_750_000_000 * S
TEXTS = ("all_reduce", "broadcast", "world", "first half", "second half", "left", "right")
COLUMNS = (
    "process", "group", "name", "group_size", "sequence", "step", "start_ns", "end_ns",
)  # fmt: skip


def clock_of(host: int) -> Clock:
    return Clock(host=f"node{host}", boot_id="boot")


@dataclass(kw_only=True)
class Cluster:
    """Hosts of two ranks each, with clocks of their own; process 100 + r is rank r."""

    seed: int
    hosts: int

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.offset = self.rng.integers(-5 * S, 5 * S, self.hosts)
        self.drift = self.rng.uniform(-5e-5, 5e-5, self.hosts)
        self.members = {
            100 + rank: Member(rank=rank, clock=clock_of(rank // 2))
            for rank in range(2 * self.hosts)
        }

    def read(self, host: Times, at: Times) -> Times:
        shown: Times = NOW + at + self.offset[host] + np.rint(at * self.drift[host]).astype("i8")
        return shown

    def run(
        self, ranks: range, *, group: str, count: int, name: str = "all_reduce", begin_s: float = 0
    ) -> CollectiveRows:
        """``count`` collectives of these ranks, 50 ms apart, all of one group."""
        number = np.arange(count)
        at = int(begin_s * S) + number * 50_000_000
        late = np.abs(self.rng.normal(0, 3e6, (count, len(ranks)))).astype(np.int64)
        late[::3] //= 20  # one bucket after another: nobody computes in between
        start = at[:, None] + late
        took = np.exp(self.rng.normal(np.log(150e3), 0.6, start.shape)).clip(50e3, 500e3)
        end = start.max(axis=1, keepdims=True) + took.astype(np.int64)
        rank = np.broadcast_to(np.array(ranks), start.shape)
        shape = start.shape
        numbers = np.broadcast_to(number[:, None], shape).ravel()
        return CollectiveRows(
            process=100 + rank.ravel(),
            group=np.full(start.size, TEXTS.index(group)),
            name=np.full(start.size, TEXTS.index(name)),
            group_size=np.full(start.size, len(ranks)),
            sequence=numbers,
            step=numbers // 3,
            start_ns=self.read(rank // 2, start).ravel(),
            end_ns=self.read(rank // 2, end).ravel(),
            texts=TEXTS,
        )

    def error_ns(self, tracker: ClockTracker, host: int, seconds: float) -> tuple[int, int]:
        """The most that a host's time is off against host 0's within the run, and the bound."""
        estimate = tracker.estimates()[clock_of(host)]
        assert estimate is not None
        at = np.linspace(0, seconds * S, 101).astype(np.int64)
        shown, true = self.read(np.array(host), at), self.read(np.array(0), at)
        moved = np.rint((shown - estimate.at_ns) * estimate.drift).astype(np.int64)
        wrong = np.abs(shown - estimate.offset_ns - moved - true)
        return int(wrong.max()), estimate.error_ns


def part_of(rows: CollectiveRows, which: NDArray[np.bool_]) -> CollectiveRows:
    chosen: dict[str, Any] = {name: getattr(rows, name)[which] for name in COLUMNS}
    return replace(rows, **chosen)


def tracked(cluster: Cluster, *parts: CollectiveRows) -> ClockTracker:
    tracker = ClockTracker()
    for rows in parts:
        tracker.add(rows, cluster.members)
    return tracker


@pytest.mark.parametrize("hosts", [2, 4, 16])
def test_all_hosts_within_a_millisecond(hosts: int) -> None:
    for seed in range(10):
        cluster = Cluster(seed=seed, hosts=hosts)
        tracker = tracked(cluster, cluster.run(range(2 * hosts), group="world", count=200))
        assert cluster.error_ns(tracker, 0, 10) == (0, 0)
        for host in range(1, hosts):
            wrong, bound = cluster.error_ns(tracker, host, 10)
            assert wrong <= min(bound, 1_000_000), (seed, host)


def test_rows_of_one_collective_come_in_any_order() -> None:
    """The spool of each rank in batches of its own give what all rows at once give."""
    cluster = Cluster(seed=1, hosts=2)
    rows = cluster.run(range(4), group="world", count=120)
    whole = tracked(cluster, rows)
    parts = [
        part_of(rows, (rows.process == 100 + rank) & (rows.sequence // 40 == third))
        for rank in (2, 0, 3, 1)
        for third in range(3)
    ]
    assert tracked(cluster, *parts).estimates() == whole.estimates()


def test_over_a_host_between() -> None:
    """Hosts 0 and 2 meet host 1 each and never one another; host 3 meets nobody."""
    cluster = Cluster(seed=2, hosts=4)
    tracker = tracked(
        cluster,
        cluster.run(range(4), group="left", count=200),
        cluster.run(range(2, 6), group="right", count=200),
        cluster.run(range(6, 8), group="second half", count=200),
    )
    near, far = (cluster.error_ns(tracker, host, 10) for host in (1, 2))
    assert far[0] <= min(far[1], 1_000_000)
    assert far[1] > near[1]
    assert tracker.estimates()[clock_of(3)] is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"name": np.full(400, TEXTS.index("broadcast"))}, id="may leave early"),
        pytest.param({"group_size": np.zeros(400, dtype=np.int64)}, id="arrivals not seen"),
        pytest.param({"sequence": np.zeros(400), "step": np.zeros(400)}, id="one done often"),
        pytest.param({"process": np.tile([100, 101, 7, 8], 100)}, id="of processes not known"),
    ],
)
def test_what_says_nothing_of_clocks(changes: dict[str, Times]) -> None:
    cluster = Cluster(seed=3, hosts=2)
    rows = cluster.run(range(4), group="world", count=100)
    changed: dict[str, Any] = {name: column.astype(np.int64) for name, column in changes.items()}
    rows = replace(rows, **changed)
    estimates = estimate_clocks(rows, cluster.members)
    assert estimates[clock_of(0)] is not None
    assert estimates[clock_of(1)] is None


def test_a_group_that_stays_incomplete_is_used_in_the_end() -> None:
    """Rank 3 recorded nothing."""
    cluster = Cluster(seed=4, hosts=2)
    rows = cluster.run(range(4), group="world", count=100)
    tracker = tracked(cluster, part_of(rows, rows.process != 103))
    assert tracker.estimates()[clock_of(1)] is None
    tracker.flush()
    wrong, bound = cluster.error_ns(tracker, 1, 5)
    assert wrong <= min(bound, 1_000_000)


def test_a_resumed_run_repeats_its_steps() -> None:
    """Same groups, sequences and steps a minute later, by new processes: none is mistaken."""
    cluster = Cluster(seed=5, hosts=2)
    first = cluster.run(range(4), group="world", count=100)
    first = part_of(first, (first.sequence < 90) | (first.process != 103))  # killed in between
    again = cluster.run(range(4), group="world", count=200, begin_s=60)
    again = replace(again, process=again.process + 100)
    members = cluster.members | {100 + key: member for key, member in cluster.members.items()}
    cluster.members = members
    tracker = tracked(cluster, first, again)
    tracker.flush()
    wrong, bound = cluster.error_ns(tracker, 1, 70)
    assert wrong <= bound < 1_000_000


def test_a_reboot_is_another_clock() -> None:
    cluster = Cluster(seed=6, hosts=2)
    rebooted = Clock(host="node1", boot_id="next boot")
    cluster.members |= {rank + 100: Member(rank=rank, clock=rebooted) for rank in (2, 3)}
    tracker = tracked(cluster, cluster.run(range(4), group="world", count=100))
    estimates = tracker.estimates()
    assert estimates.keys() == {clock_of(0), rebooted}
    assert estimates[rebooted] is not None


def test_little_is_kept_of_many() -> None:
    """100,000 collectives of two hosts in ten batches: bounded, and quick."""
    cluster = Cluster(seed=7, hosts=2)
    rows = cluster.run(range(4), group="world", count=100_000)
    tracker = ClockTracker()
    for tenth in range(10):
        tracker.add(part_of(rows, rows.sequence // 10_000 == tenth), cluster.members)
    wrong, bound = cluster.error_ns(tracker, 1, 5000)
    assert wrong <= bound < 1_000_000


def test_rows_of_an_arrow_table() -> None:
    """Chunks have dictionaries of their own; a text may be missing."""
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts))
        for codes, texts in (([0, 1], ["x", "y"]), ([1, None], ["z", "x"]))
    ]
    numbers = pa.chunked_array([[1, 2], [3, 4]])
    columns = dict.fromkeys(COLUMNS, numbers) | dict.fromkeys(
        ("name", "group"), pa.chunked_array(chunks)
    )
    rows = CollectiveRows.of_table(pa.table(columns))
    assert [(*rows.texts, None)[code] for code in rows.group.tolist()] == ["x", "y", "x", None]
    assert rows.end_ns.tolist() == [1, 2, 3, 4]
