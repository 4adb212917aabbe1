"""Faults from outside: real processes, links and file systems, struck once and healed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import DataError, OpsuiteError
from engine.faults.damaged_shard import CorruptShard, TruncatedShard
from engine.faults.frozen_storage import FrozenStorage
from engine.faults.full_disk import DiskFull
from engine.faults.host_network import HostNetwork
from engine.faults.marker import Marker
from engine.faults.network import NetworkCut, NetworkRate
from engine.faults.outside import Injection
from engine.faults.processes import DriverKill, ExecutorKill
from engine.faults.small_filesystem import SmallFilesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.faults.outside import OutsideFault

NO_DISK = SmallFilesystem.why_unavailable()
NO_NETWORK = HostNetwork.why_unavailable()
needs_disk = pytest.mark.skipif(bool(NO_DISK), reason=NO_DISK)

WRITE = """
import os, sys
number = 0
while True:
    with open(sys.argv[1], "w") as file:
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())
    number += 1
    print(number, flush=True)
"""
STRIKE = """
import sys, time
from pathlib import Path
from engine.faults.frozen_storage import FrozenStorage
class Scene:
    def checkpoints(self):
        return Path(sys.argv[1])
fault = FrozenStorage(at_step=1, seconds=60.0)
fault.strike(Scene())
print("frozen", flush=True)
time.sleep(60)
"""


class Stage:
    """A :class:`~engine.faults.scene.Scene` whose processes sleep."""

    def __init__(self, checkpoints: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        self.at = 0
        self.net: HostNetwork | None = None
        self._checkpoints = checkpoints
        self._process = process

    def rank_pid(self, rank: int) -> int:
        raise NotImplementedError

    def executor_pid(self, host: str) -> int:
        assert host == "a"
        return self.driver_pid()

    def driver_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def host_of(self, rank: int) -> str:
        return "a" if rank == 1 else "b"

    def network(self) -> HostNetwork | None:
        return self.net

    def checkpoints(self) -> Path:
        return self._checkpoints

    def step(self) -> int:
        return self.at


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "checkpoints").mkdir()
    return Stage(tmp_path / "checkpoints")


@pytest.fixture
def inject(tmp_path: Path, events: Any) -> Callable[[OutsideFault, Stage], Injection]:
    """Those of a test are one run's first fault."""

    def make(fault: OutsideFault, stage: Stage) -> Injection:
        return Injection(fault, stage, recorder=events, marker=Marker(tmp_path / "faults", "0"))

    return make


@pytest.mark.parametrize(
    "fault", [ExecutorKill(at_step=3, host=host) for host in ("a", "@1")] + [DriverKill(at_step=3)]
)
def test_a_process_is_killed_at_its_step_and_its_successor_lives(
    fault: OutsideFault, tmp_path: Path, events: Any, inject: Callable[..., Injection]
) -> None:
    for expected in (-signal.SIGKILL, None):
        with subprocess.Popen(["sleep", "60"]) as process:
            stage = Stage(tmp_path, process)
            stage.at = 2
            with inject(fault, stage) as injection:
                time.sleep(0.05)
                assert process.poll() is None
                stage.at = 3
                assert injection.wait_over(10)
            if expected is None:
                time.sleep(0.05)
                assert process.poll() is None
                process.kill()
            else:
                assert process.wait(timeout=10) == expected
    assert events.names == ["fault.begin", "fault.end"]
    assert events.attributes[0]["class"] == fault.name


def test_it_is_told_what_a_run_ended_too_early_for(
    stage: Stage, events: Any, inject: Callable[..., Injection]
) -> None:
    with inject(DriverKill(at_step=3), stage) as injection:
        pass
    assert "ended before" in injection.skipped
    assert not injection.struck
    assert events.names == ["fault.skipped"]


def test_what_cannot_be_struck_is_skipped(
    stage: Stage, events: Any, inject: Callable[..., Injection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "driver_pid", lambda: 2**22 + 1)  # more than there are
    stage.at = 3
    with inject(DriverKill(at_step=3), stage) as injection:
        assert injection.wait_over(10)
    assert "could not be struck" in injection.skipped
    assert events.names == ["fault.begin", "fault.skipped"]


@pytest.mark.skipif(bool(NO_NETWORK), reason=NO_NETWORK)
def test_a_link_is_cut_for_its_time(
    stage: Stage, events: Any, inject: Callable[..., Injection], wait_for: Callable[..., bool]
) -> None:
    with HostNetwork(["a"]) as network:
        stage.net, stage.at = network, 2
        port = Path(f"/sys/class/net/{network._port('a')}")

        def is_up() -> bool:
            return bool(int((port / "flags").read_text(), 16) & 1)

        fault = NetworkCut(at_step=2, host="a", seconds=0.3)
        with inject(fault, stage) as injection:
            assert wait_for(lambda: not is_up())
            assert injection.wait_over(10)
        assert is_up()
        fault.heal(stage)
        with inject(NetworkCut(at_step=2, host="a", seconds=60.0), stage) as injection:
            assert injection.wait_over(10)  # it had been
            assert is_up()
        assert events.names == ["fault.begin", "fault.end"]
        assert "there is no host b" in NetworkCut(at_step=1, host="b", seconds=1.0).unavailable(
            stage
        )
    stage.net = None
    assert "networks of their own" in fault.unavailable(stage)


@pytest.mark.skipif(
    bool(NO_NETWORK or HostNetwork.why_no_limits()), reason=HostNetwork.why_no_limits()
)
def test_a_link_is_slow_until_it_is_healed(stage: Stage) -> None:
    with HostNetwork(["a"]) as network:
        stage.net = network
        fault = NetworkRate(at_step=2, host="a", seconds=60.0, kbit=800)
        assert fault.unavailable(stage) == ""
        show = ["tc", "qdisc", "show", "dev", network._port("a")]
        fault.strike(stage)
        assert "tbf" in subprocess.check_output(show, text=True)
        fault.heal(stage)
        fault.heal(stage)
        assert "tbf" not in subprocess.check_output(show, text=True)


@pytest.fixture
def small(stage: Stage) -> Iterator[Stage]:
    """Its checkpoints have a file system of their own."""
    with SmallFilesystem(stage.checkpoints(), 16 << 20):
        yield stage


@needs_disk
def test_a_disk_is_full_from_the_middle_of_a_save_on(
    small: Stage, inject: Callable[..., Injection], wait_for: Callable[..., bool]
) -> None:
    aside = small.checkpoints() / "step-000002.tmp"
    small.at = 2
    with inject(DiskFull(at_step=2, seconds=60.0), small) as injection:
        time.sleep(0.05)
        assert not injection.struck
        aside.mkdir()
        assert wait_for(lambda: injection.struck)
        with pytest.raises(OSError, match="No space") as caught:
            (aside / "shard").write_bytes(bytes(1 << 20))
        assert caught.value.errno == errno.ENOSPC
    (aside / "shard").write_bytes(bytes(1 << 20))


@needs_disk
def test_storage_stalls_for_its_time(small: Stage, inject: Callable[..., Injection]) -> None:
    small.at = 2
    path = small.checkpoints() / "written"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        (small.checkpoints() / "step-000004.tmp").mkdir()  # a save goes on
        with inject(FrozenStorage(at_step=2, seconds=0.8), small) as injection:
            gap_s, began = 0.0, time.monotonic()
            while injection.wait_over(0.0) is False or time.monotonic() - began < 0.1:
                before = time.monotonic()
                assert writer.stdout.readline()
                gap_s = max(gap_s, time.monotonic() - before)
        assert gap_s > 0.5
        assert writer.stdout.readline()
        writer.kill()


@needs_disk
def test_it_thaws_though_the_process_that_froze_it_is_killed(small: Stage) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STRIKE, str(small.checkpoints())],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as striker:
        assert striker.stdout is not None
        assert striker.stdout.readline() == b"frozen\n"
        striker.kill()
    write = [sys.executable, "-I", "-S", "-c", "open(__import__('sys').argv[1], 'w')"]
    subprocess.run([*write, str(small.checkpoints() / "file")], check=True, timeout=20)


@needs_disk
def test_once_more_does_nothing(small: Stage) -> None:
    fault = FrozenStorage(at_step=1, seconds=60.0)
    fault.strike(small)
    with pytest.raises(OSError, match="cannot be frozen"):
        FrozenStorage(at_step=1, seconds=60.0).strike(small)
    fault.heal(small)
    fault.heal(small)
    (small.checkpoints() / "file").write_text("written")


def test_file_systems_that_others_use_are_left_alone(stage: Stage) -> None:
    for fault in (DiskFull(at_step=1, seconds=1.0), FrozenStorage(at_step=1, seconds=1.0)):
        assert "file system of their own" in fault.unavailable(stage)


@needs_disk
def test_a_tmpfs_may_be_filled_and_cannot_be_frozen(stage: Stage) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "opsuite-test", str(stage.checkpoints())]
    subprocess.run(mount, check=True)
    try:
        fault = DiskFull(at_step=1, seconds=1.0)
        assert fault.unavailable(stage) == ""
        fault.strike(stage)
        with pytest.raises(OSError, match="No space"):
            (stage.checkpoints() / "file").write_bytes(bytes(1 << 16))
        fault.heal(stage)
        fault.heal(stage)
        (stage.checkpoints() / "file").write_bytes(bytes(1 << 16))
        assert "tmpfs" in FrozenStorage(at_step=1, seconds=1.0).unavailable(stage)
    finally:
        subprocess.run(["umount", str(stage.checkpoints())], check=True)


@needs_disk
def test_what_a_killed_process_left_mounted_makes_room(tmp_path: Path) -> None:
    left = SmallFilesystem(tmp_path / "small", 8 << 20).__enter__()
    (tmp_path / "small" / "file").touch()
    with SmallFilesystem(tmp_path / "small", 8 << 20):
        assert not (tmp_path / "small" / "file").exists()
        assert (tmp_path / "small").is_mount()
    assert not (tmp_path / "small").is_mount()
    left.__exit__(None, None, None)  # nothing any more


@needs_disk
def test_a_file_system_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(OpsuiteError, match=r"mkfs\.ext4"),
        SmallFilesystem(tmp_path / "small", 1 << 10),
    ):
        pass
    assert not (tmp_path / ".small.ext4").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [(CorruptShard(at_step=2), "altered"), (TruncatedShard(at_step=2), "bytes instead of")],
)
def test_the_newest_checkpoint_is_damaged(
    fault: OutsideFault, words: str, stage: Stage, inject: Callable[..., Injection]
) -> None:
    torch = pytest.importorskip("torch", reason="needs the engine extra")
    from safetensors.torch import save_file

    from engine.training.checkpoint import CheckpointStore, Progress, check, fingerprint

    store = CheckpointStore(stage.checkpoints(), keep=3)

    def publish(step: int) -> None:
        store.prepare(step)
        name = "state/shard-00001-model-00001-of-00001.safetensors"
        save_file({"weight": torch.arange(64.0)}, store.aside(step) / name)
        prints = {name: fingerprint(store.aside(step) / name)}
        store.publish(Progress(step=step, samples=step, corpus=""), prints)

    stage.at = 9
    with inject(fault, stage) as injection:
        assert not injection.wait_over(0.05)  # there is none yet
        store.prepare(1)
        assert not injection.wait_over(0.05)
        publish(2)
        assert injection.wait_over(10)
    publish(4)
    good, bad = store.paths()
    check(good)
    with pytest.raises(DataError, match=words):
        check(bad)
    with inject(fault, stage) as injection:
        assert injection.wait_over(10)
    check(good)
