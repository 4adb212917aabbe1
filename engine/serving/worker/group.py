"""The other ranks of an engine: they are told what the first is told, and do the same."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from engine.profiles.latency import Latency
from engine.scheduling.limits import Limits
from engine.serving.channel import Channel
from engine.serving.sampling.sampler import Chosen
from engine.serving.wire import Start
from engine.serving.worker.calibration import Plan
from engine.serving.worker.tick import Tick

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.serving.config import ServingConfig

_log = logging.getLogger(__name__)


class Enter(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """The first message to a follower.

    Attributes:
        meeting: the file by which the ranks find each other.
        salt: of the prefixes.
    """

    start: Start
    rank: int
    meeting: str
    salt: bytes


class Terms(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """What decisions depend on, as the first rank has found it.

    Attributes:
        plan: what is measured first, by all at once; None: nothing.
        latency: None until it is measured.
    """

    limits: Limits
    plan: Plan | None = None
    latency: Latency | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """What has happened."""

    tick: Tick


class Chose(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """From the last stage: what an iteration gave."""

    chosen: tuple[Chosen, ...]


ToFollower = Enter | Terms | Told
TO_FOLLOWER: msgspec.msgpack.Decoder[ToFollower] = msgspec.msgpack.Decoder(ToFollower)
_FROM_FOLLOWER: msgspec.msgpack.Decoder[Chose] = msgspec.msgpack.Decoder(Chose)


class Followers:
    """The processes of all ranks but the first, on this machine.

    They end when this process does, and when they are closed.

    Attributes:
        meeting: the file by which all ranks find each other.
    """

    def __init__(self, start: Start, config: ServingConfig, *, salt: bytes) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="opsuite-ranks-"))  # of mode 0700
        self.meeting = self._directory / "store"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Channel[Chose]] = []
        self._closing = False
        self._last = (config.pp - 1) * config.tp  # the first rank of the last stage
        for rank in range(1, config.ranks):
            self._begin()
            self._channels[-1].send(
                Enter(start=start, rank=rank, meeting=str(self.meeting), salt=salt)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for channel in self._channels:
            channel.close()
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def agree(self, terms: Terms) -> None:
        """Tell them what decisions depend on."""
        self._tell(terms)

    def tell(self, tick: Tick) -> None:
        """Tell them what has happened; OSError: one is gone."""
        self._tell(Told(tick=tick))

    @property
    def last_stage(self) -> Channel[Chose]:
        """Where the tokens come from; only where that is not this stage."""
        assert self._last, "there are several stages"
        return self._channels[self._last - 1]

    def _tell(self, message: ToFollower) -> None:
        for channel in self._channels:
            channel.send(message)

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "engine.serving.worker.follower"],
                    stdin=theirs.fileno(),
                    stdout=sys.stderr,
                    env=environment(),
                )
            )
        threading.Thread(target=self._watch, args=(self._processes[-1],), daemon=True).start()
        self._channels.append(Channel(ours, _FROM_FOLLOWER))

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Without one of them nothing can be computed, and what waits for it would wait long."""
        code = process.wait()
        if not self._closing:
            _log.error("a rank of the engine has ended, with exit code %d", code)
            shutil.rmtree(self._directory, ignore_errors=True)
            os._exit(1)


def environment() -> Mapping[str, str]:
    """Of an engine's processes: what they listen on is this machine's own."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {**os.environ, "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
