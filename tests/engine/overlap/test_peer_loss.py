"""Peers that die or stall in the middle of an operation, and what is left of their memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    InRanks = Callable[..., list[list[dict[str, Any]]]]

LOSE = """
from engine.overlap.operators import all_gather_matmul, matmul_all_reduce, matmul_reduce_scatter
from engine.peers.memory import PeerLost
group = open_group(choice="shared", timeout_s=1.0)
x, w = torch.randn(options["rows"], 64), torch.randn(32, 64)
calls = {
    "all_gather_matmul": lambda: all_gather_matmul(x, [w], group),
    "matmul_reduce_scatter": lambda: matmul_reduce_scatter(x.repeat(size, 1), w, group),
    "matmul_all_reduce": lambda: matmul_all_reduce(x.repeat(size, 1), w, group),
}
call = calls[options["operator"]]
call()
dist.barrier()
if rank == 1:
    begin = group.transport._workspace.begin
    def begin_and_no_more(nbytes):
        begin(nbytes)  # its place is taken, and what belongs there never comes
        if options["dies"]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(2.5)
        os._exit(0)
    group.transport._workspace.begin = begin_and_no_more
begun = time.monotonic()
try:
    call()
except PeerLost as error:
    tell(rank=error.rank, what=error.what, where=error.where, after_s=time.monotonic() - begun)
group.close()
"""
_PEERS = "memfd:opsuite-peers"
OPERATORS = ["all_gather_matmul", "matmul_reduce_scatter", "matmul_all_reduce"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_peer_that_dies_is_named_by_all_others_at_once(in_ranks: InRanks, operator: str) -> None:
    told = in_ranks(LOSE, 3, operator=operator, rows=400, dies=True, may_fail=True)
    assert told[1] == []
    for rank in (0, 2):
        [line] = told[rank]
        assert (line["rank"], line["what"]) == (1, "rank 1 has ended")
        assert line["after_s"] < 0.9


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_peer_that_stalls_is_named_when_time_is_up(in_ranks: InRanks, operator: str) -> None:
    told = in_ranks(LOSE, 3, operator=operator, rows=16, dies=False)
    for rank in (0, 2):
        [line] = told[rank]
        assert (line["rank"], line["what"]) == (1, "rank 1 did not come within 1 s")
        assert 1.0 <= line["after_s"] < 1.9


def test_memory_has_no_name_is_private_and_goes_with_its_ranks(in_ranks: InRanks) -> None:
    """As after ``kill -9`` of all of them: the kernel has nothing left to look at."""
    before = set(Path("/dev/shm").iterdir())
    told = in_ranks(
        """
group = open_group(choice="shared")
maps = [line.split() for line in open("/proc/self/maps") if "opsuite-peers" in line]
modes = [
    oct(os.stat(path).st_mode & 0o777)
    for path in map("/proc/self/fd/{}".format, os.listdir("/proc/self/fd"))
    if "opsuite-peers" in os.path.realpath(path)
]
tell(deleted=[line[-1] for line in maps], modes=modes, inodes=[line[4] for line in maps])
dist.barrier()
os.kill(os.getpid(), signal.SIGKILL)
""",
        may_fail=True,
    )
    for [line] in told:
        assert line["deleted"] == ["(deleted)"] * 2
        assert line["modes"] == ["0o600"] * 2
    assert not any("opsuite" in path.name for path in set(Path("/dev/shm").iterdir()) - before)
    inodes = {inode for [line] in told for inode in line["inodes"]}
    held = [
        line
        for maps in Path("/proc").glob("[0-9]*/maps")
        for line in _text(maps).splitlines()
        if _PEERS in line and line.split()[4] in inodes
    ]
    assert len(inodes) == 2
    assert held == []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_groups_that_cannot_share_say_why_and_use_collectives(in_ranks: InRanks) -> None:
    told = in_ranks(
        """
from engine.overlap.operators import matmul_all_reduce
from engine.peers import opening
from engine.peers.opening import NotShared
if rank == 1:
    opening.process_space = lambda: "another host"
group = open_group()
total = matmul_all_reduce(torch.ones(4, 3), torch.ones(5, 3), group)
try:
    open_group(choice="shared")
except NotShared as error:
    tell(why=group.why_collective, right=bool((total == 6).all()), refused=error.remedy)
"""
    )
    for [line] in told:
        assert line == {
            "why": "ranks on several hosts, or in several containers",
            "right": True,
            "refused": "set parallel.transport to collective",
        }
