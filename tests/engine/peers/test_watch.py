"""The watch over the peers of a device, with real processes for peers and a memory on the host."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")
if sys.platform != "linux":
    pytest.skip("process descriptors need Linux", allow_module_level=True)

from engine.peers.device import POISON  # noqa: E402
from engine.peers.memory import PeerLost  # noqa: E402
from engine.peers.virtual import open_virtual  # noqa: E402
from engine.peers.watch import PeerWatch  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.peers.virtual import VirtualMemory

OWN, PEER = 0, 1
RANKS = (4, 5)  # global ones


class Operations:
    """Those of rank 4, whose waiting is done by hand: signal i holds the epoch of place i."""

    def __init__(self, peer: subprocess.Popen[bytes], **options: float) -> None:
        [self.memory, _] = open_virtual(2, nbytes=8, device=torch.device("cpu"))
        self.peer = peer
        self.watch = PeerWatch(
            ranks=RANKS,
            processes={PEER: peer.pid},
            latest=lambda signals: signals[:2],
            **{"timeout_s": 60.0, "grace_s": 60.0, **options},
        )
        self._epoch = 0

    def pass_through(self) -> None:
        """An operation to which the peer comes."""
        self._epoch += 1
        with self.watch.following(self.memory, epoch=self._epoch, where="all_gather"):
            self.signal(self._epoch)

    def spin(self, *, most_s: float = 5.0) -> float:
        """One that waits for its signal as a kernel does; gives for how long."""
        self._epoch += 1
        begun = time.monotonic()
        with self.watch.following(self.memory, epoch=self._epoch, where="reduce_scatter"):
            while self.memory.signals(OWN)[PEER] < self._epoch:
                assert time.monotonic() - begun < most_s, "nobody ended its waiting"
                time.sleep(0.001)
        return time.monotonic() - begun

    def signal(self, epoch: int) -> None:
        """As the peer does."""
        self.memory.signals(OWN)[PEER] = epoch

    def end_peer(self) -> None:
        self.peer.kill()
        self.peer.wait()


@pytest.fixture
def peer() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def await_poison(memory: VirtualMemory) -> None:
    begun = time.monotonic()
    while not (memory.signals(OWN) == POISON).all():
        assert time.monotonic() - begun < 5, "nobody ended the waiting"
        time.sleep(0.001)


def lost(operations: Operations) -> PeerLost:
    with pytest.raises(PeerLost) as raised:
        operations.watch.check()
    return raised.value


def test_a_peer_that_ends_before_it_came_is_named_at_once(peer: subprocess.Popen[bytes]) -> None:
    operations = Operations(peer)
    operations.pass_through()
    operations.end_peer()
    assert operations.spin() < 1
    told = lost(operations)
    assert (told.rank, told.what, told.where) == (5, "rank 5 has ended", "reduce_scatter")
    with pytest.raises(PeerLost):
        operations.pass_through()
    operations.watch.close()


def test_a_peer_that_came_may_end(peer: subprocess.Popen[bytes]) -> None:
    """Its part may be on the way still; only if nothing goes on it counts as lost."""
    operations = Operations(peer, grace_s=0.4)
    operations.pass_through()
    operations.end_peer()
    time.sleep(0.6)
    operations.watch.check()  # nothing waits for it
    begun = time.monotonic()
    operations.signal(2)
    with operations.watch.following(operations.memory, epoch=2, where="all_gather"):
        await_poison(operations.memory)
    assert time.monotonic() - begun >= 0.4
    assert lost(operations).what == "rank 5 has ended"
    operations.watch.close()


def test_who_does_not_come_in_time_is_named(peer: subprocess.Popen[bytes]) -> None:
    operations = Operations(peer, timeout_s=0.3)
    for _ in range(5):
        operations.pass_through()
        time.sleep(0.1)  # each operation has its own time
    assert 0.3 <= operations.spin() < 1
    assert lost(operations).what == "rank 5 did not come within 0.3 s"
    operations.watch.close()


def test_a_device_that_hangs_by_itself_is_said_to(peer: subprocess.Popen[bytes]) -> None:
    operations = Operations(peer, timeout_s=0.3)
    operations.signal(1)
    with operations.watch.following(operations.memory, epoch=1, where="all_gather"):
        await_poison(operations.memory)
    assert "rank 4 hangs: all others came" in lost(operations).what
    operations.watch.close()


def test_what_was_issued_before_a_loss_ends_too(peer: subprocess.Popen[bytes]) -> None:
    """A workspace that has grown has operations in two memories."""
    operations = Operations(peer)
    [other, _] = open_virtual(2, nbytes=8, device=torch.device("cpu"))
    with (
        operations.watch.following(operations.memory, epoch=1, where="all_gather"),
        operations.watch.following(other, epoch=2, where="all_gather"),
    ):
        operations.end_peer()
        await_poison(operations.memory)
        await_poison(other)
    operations.watch.close()
