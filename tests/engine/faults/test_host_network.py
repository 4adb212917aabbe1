"""Hosts that are namespaces: they reach each other until they are cut, and nothing stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import OpsuiteError
from engine.faults import host_network
from engine.faults.host_network import HostNetwork, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MISSING = HostNetwork.why_unavailable()
NO_LIMITS = MISSING or HostNetwork.why_no_limits()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

SEND = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    connection.sendall(b"." * int(sys.argv[3]))
    time.sleep(float(sys.argv[4]))
"""
HOLD = """
import time
from engine.faults.host_network import HostNetwork
with HostNetwork(["a"]) as network:
    print(network.command_prefix("a")[1], network._bridge, flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def network() -> Iterator[HostNetwork]:
    with HostNetwork(["a", "b"]) as network:
        yield network


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("", 0))) as server:
        server.settimeout(20)
        yield server


@pytest.fixture
def connect(network: HostNetwork, listener: socket.socket) -> Iterator[Callable[..., Any]]:
    """A connection from a process on a host, which sends so much so often."""
    started = []

    def start(host: str, size: int, every_s: float) -> socket.socket:
        port = str(listener.getsockname()[1])
        given = [network.gateway, port, str(size), str(every_s)]
        started.append(
            subprocess.Popen(
                [*network.command_prefix(host), sys.executable, "-I", "-S", "-c", SEND, *given],
                stderr=subprocess.DEVNULL,
            )
        )
        connection, (address, _) = listener.accept()
        assert address == network.address(host)
        connection.settimeout(0.4)
        return connection

    yield start
    for process in started:
        process.kill()
        process.wait()


def received(connection: socket.socket, seconds: float) -> int:
    """Bytes that come within that time."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            count += len(connection.recv(1 << 16))
        except TimeoutError:
            continue
    return count


def test_a_cut_host_is_silent_and_then_goes_on(
    network: HostNetwork, connect: Callable[..., socket.socket], wait_for: Callable[..., bool]
) -> None:
    with closing(connect("a", 1, 0.01)) as one, closing(connect("b", 1, 0.01)) as other:
        assert received(one, 0.1) > 0
        network.cut("a")
        network.cut("a")
        assert wait_for(lambda: received(one, 0.5) == 0)  # after what was on its way
        assert received(other, 0.1) > 0
        network.restore("a")
        network.restore("a")
        assert wait_for(lambda: received(one, 0.1) > 0)


@pytest.mark.skipif(bool(NO_LIMITS), reason=NO_LIMITS)
def test_a_limited_host_sends_slowly_until_it_is_not(
    network: HostNetwork, connect: Callable[..., socket.socket], wait_for: Callable[..., bool]
) -> None:
    with closing(connect("a", 1 << 16, 0.0)) as connection:
        network.limit("a", 800)  # 100 kB/s
        # Buffers and the bucket are full of what was sent before.
        assert wait_for(lambda: 0 < received(connection, 0.5) < 80_000)
        network.unlimited("a")
        network.unlimited("a")
        assert wait_for(lambda: received(connection, 0.5) > 500_000)


def test_hosts_reach_each_other_and_have_their_own_loopback(network: HostNetwork) -> None:
    serve = "import socket; s = socket.create_server(('', 7)); print(flush=True); s.accept()"
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 7), timeout=2)"
    python = [sys.executable, "-I", "-S", "-c"]
    with subprocess.Popen(
        [*network.command_prefix("b"), *python, serve], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        own = [*network.command_prefix("a"), *python, connect]
        assert subprocess.run([*own, "127.0.0.1"], capture_output=True, check=False).returncode
        subprocess.run([*own, network.address("b")], check=True)


def test_nothing_stays_where_it_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    network = HostNetwork(["a", "b"])
    make, made = HostNetwork._make_host, list[str]()

    def fail(self: HostNetwork, host: str) -> None:
        if made:
            raise OpsuiteError("no more")
        make(self, host)
        made.append(host)

    monkeypatch.setattr(HostNetwork, "_make_host", fail)
    with pytest.raises(OpsuiteError, match="no more"):
        network.__enter__()
    assert not Path(f"/run/netns/{network._namespace('a')}").exists()
    assert not Path(f"/sys/class/net/{network._bridge}").exists()
    assert not Path(f"/sys/class/net/{network._port('a')}").exists()


def test_what_a_killed_process_left_is_swept_and_nothing_else(network: HostNetwork) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        option, bridge = holder.stdout.readline().split()
        namespace = Path(option.removeprefix("--net="))
        sweep()
        assert namespace.exists()  # its process lives
        holder.send_signal(signal.SIGKILL)
    assert namespace.name in sweep()
    assert not namespace.exists()
    assert not Path(f"/sys/class/net/{bridge}").exists()
    assert Path(f"/run/netns/{network._namespace('a')}").exists()


def test_the_subnet_is_nobody_elses(network: HostNetwork) -> None:
    assert not host_network._free_subnet().overlaps(network._subnet)
