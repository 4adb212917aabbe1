"""All-to-all in the host and the pair test between two ends: real processes over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import TimedOut, Unreachable, UsageError
from playbooks.checks.all_to_all import AllToAll
from playbooks.checks.check import Verdict
from playbooks.checks.handshake import Offer, Refused, admit, join
from playbooks.checks.meeting import connect, listen, split_address
from playbooks.checks.processors import usable_cores

if TYPE_CHECKING:
    from pathlib import Path

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
OFFER = Offer(host="listener", store_port=1, device="cpu", seconds=1.0)


@needs_torch
@pytest.mark.skipif(len(usable_cores()) < 2, reason="this machine has one core")
def test_the_rank_that_sends_something_wrong_is_named() -> None:
    (found,) = AllToAll(spoil=1).measure(0.1)
    assert found.fault is Verdict.CORRUPT
    assert found.detail == "wrong data from rank 1"
    assert found.value is not None
    assert found.value > 0


def test_without_torch_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("playbooks.checks.all_to_all.find_spec", lambda _name: None)
    (found,) = AllToAll().measure(0.1)
    assert found.fault is Verdict.SKIPPED


# -- the handshake -------------------------------------------------------------------------------


def shake_hands(listener_key: str, peer_key: str) -> tuple[Any, Any]:
    """What each end got, or its error."""
    ends = socket.socketpair()
    admitted: list[Any] = []

    def take() -> None:
        with ends[0]:
            try:
                admitted.append(admit(ends[0], listener_key, OFFER))
            except Refused as error:
                admitted.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    for end in ends:
        end.settimeout(10)
    with ends[1]:
        try:
            joined: Any = join(ends[1], peer_key, "peer")
        except Refused as error:
            joined = error
    thread.join()
    return admitted[0], joined


def test_two_ends_with_one_key_come_together() -> None:
    assert shake_hands("secret", "secret") == ("peer", OFFER)


@pytest.mark.parametrize(("listener", "peer"), [("secret", "guess"), ("secret", ""), ("", "x")])
def test_two_ends_with_two_keys_do_not(listener: str, peer: str) -> None:
    admitted, joined = shake_hands(listener, peer)
    assert isinstance(admitted, Refused)
    assert isinstance(joined, Refused)


def test_a_listener_without_the_key_gets_no_answer_either() -> None:
    ends = socket.socketpair()
    with ends[0], ends[1]:
        ends[1].settimeout(10)
        ends[0].sendall(bytes(32) + bytes(32))
        with pytest.raises(Refused, match="does not have the key"):
            join(ends[1], "secret", "peer")


# -- meeting -------------------------------------------------------------------------------------


def test_nobody_listens_beyond_loopback_without_key() -> None:
    with pytest.raises(UsageError, match="no API key"):
        listen("0.0.0.0", 0, key="", device="cpu", seconds=1.0, limit_s=1.0)


def test_a_listener_waits_for_its_time_only() -> None:
    with pytest.raises(TimedOut):
        listen("127.0.0.1", 0, key="", device="cpu", seconds=1.0, limit_s=0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_peer_without_listener_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        connect("127.0.0.1", free_port(), key="", limit_s=0.2)


def test_a_listener_that_says_nothing_is_a_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimedOut):
        connect("127.0.0.1", server.getsockname()[1], key="", limit_s=0.2)


def test_addresses_are_split() -> None:
    assert split_address("host:80") == ("host", 80)
    assert split_address("[::1]:80") == ("::1", 80)
    for wrong in ("host", ":80", "host:", "host:x", "host:70000"):
        with pytest.raises(UsageError):
            split_address(wrong)


# -- the whole test ------------------------------------------------------------------------------


def start(module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@needs_torch
def test_two_ends_measure_the_way_between_them(home: Path, tmp_path: Path) -> None:
    """Somebody with another key comes first, is sent away, and disturbs nobody."""
    key, command = tmp_path / "key", "opsuite.cli.main"
    key.write_text("secret\n")
    address = f"127.0.0.1:{free_port()}"
    options = ("--json", "--limit", "30s", "--api-key-file", str(key))
    listener = start(command, "check", "--listen", address, "--budget", "200ms", *options)
    assert listener.stderr is not None
    assert "listening" in listener.stderr.readline()
    with pytest.raises(UsageError, match="did not come together"):
        connect("127.0.0.1", int(address.partition(":")[2]), key="guess", limit_s=5.0)
    peer = start(command, "check", "--peer", address, *options)
    for end in (listener, peer):
        output, errors = end.communicate(timeout=60)
        assert end.returncode == 0, errors
        (result,) = json.loads(output)["results"]
        assert (result["name"], result["verdict"]) == ("pair", "ok")
        assert result["value"] > 0
        assert "secret" not in output + errors
    assert not home.exists()


@needs_torch
def test_wrong_sums_are_corrupt_at_both_ends() -> None:
    module, address = "playbooks.checks.pair_test", f"127.0.0.1:{free_port()}"
    options = ("--seconds", "0.1", "--limit-s", "30")
    listener = start(module, "--listen", address, *options)
    peer = start(module, "--peer", address, *options, "--spoil")
    for end in (listener, peer):
        output, errors = end.communicate(timeout=60)
        assert end.returncode == 0, errors
        assert json.loads(output)["fault"] == "corrupt"
