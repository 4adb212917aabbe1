"""The processes of all instances: started, introduced to each other, and replaced when they die."""

from __future__ import annotations

import logging
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from collectors.errors import RunFailed
from engine.serving.channel import Channel, ChannelError
from engine.serving.instances.enrolment import (
    FROM_INSTANCE,
    Compute,
    Computed,
    Enter,
    FromInstance,
    Peer,
    Up,
)
from engine.serving.wire import Refusal
from engine.serving.worker.group import environment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.serving.instances.step import Done, Step
    from engine.serving.wire import Start

_log = logging.getLogger(__name__)
_MOST_DEATHS, _WITHIN_S = 5, 60.0


@dataclass(slots=True, eq=False)
class _Member:
    """One process."""

    process: subprocess.Popen[bytes]
    channel: Channel[FromInstance]
    up: Up | None = None


@dataclass(slots=True, eq=False)
class _Instance:
    """Its processes, by their tensor-parallel ranks; none while it is gone for good."""

    directory: Path
    members: list[_Member] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether all have loaded their part of the model."""
        return bool(self.members) and all(each.up for each in self.members)

    @property
    def ups(self) -> list[Up]:
        """What they have told of themselves."""
        return [each.up for each in self.members if each.up is not None]


@dataclass(slots=True)
class News:
    """What was heard of instances.

    Attributes:
        gained: instances that are ready, with their slots.
        lost: instances that were ready, and are gone.
    """

    done: list[Done] = field(default_factory=list)
    gained: list[tuple[int, int]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


class Crew:
    """They end when this process does, and when it is closed.

    Args:
        tp: processes of each instance.
        slots: of each pool; None: as the memory allows.
    """

    def __init__(self, start: Start, *, instances: int, tp: int, slots: int | None) -> None:
        self._start = start
        self._tp = tp
        self._slots = slots
        self._died: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._instances: dict[int, _Instance] = {}
        for number in range(instances):
            self._begin(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._instances.values():
            self._end(each)

    @property
    def channels(self) -> list[Channel[FromInstance]]:
        """Of all processes, for selectors."""
        return [member.channel for each in self._instances.values() for member in each.members]

    def await_all(self) -> None:
        """Until every instance can compute; raises as :meth:`hear`."""
        while len(self.ready) < len(self._instances):
            self.hear(select.select(self.channels, [], [])[0])

    @property
    def ready(self) -> list[int]:
        """Instances that can compute."""
        return [number for number, each in self._instances.items() if each.ready]

    def shape(self) -> Up:
        """What the process with the smallest pool has told of itself: else all are alike. Each made
        its pool of what memory it found."""
        return min((up for each in self.ready for up in self._instances[each].ups), key=_slots)

    def compute(self, steps: Iterable[Step]) -> None:
        """Tell each group its step. That a process is gone is heard later."""
        for step in steps:
            for number in step.instances:
                self._tell(number, Compute(step))

    def kill(self, instance: int) -> None:
        """One that does not answer; that it is gone is heard later."""
        for member in self._instances[instance].members:
            member.process.kill()

    def hear(self, channels: Iterable[object]) -> News:
        """What these have to say.

        Raises:
            RunFailed: instances die too often.
            OpsuiteError: the model cannot be served; as an instance says itself.
        """
        wanted = set(map(id, channels))
        news = News()
        for number, instance in list(self._instances.items()):
            for rank, member in enumerate(list(instance.members)):
                if id(member.channel) not in wanted:
                    continue
                try:
                    messages = member.channel.receive(0)
                except (EOFError, OSError, ChannelError) as error:
                    self._lose(number, error, news)
                    break
                for message in messages:
                    self._take(number, rank, message, news)
        return news

    def _take(self, number: int, rank: int, message: FromInstance, news: News) -> None:
        if isinstance(message, Refusal):
            raise message.error
        if isinstance(message, Computed):
            if rank == 0:  # all its ranks have computed the same
                news.done.append(message.done)
            return
        instance = self._instances[number]
        instance.members[rank].up = message
        if instance.ready:
            self._introduce(number)
            news.gained.append((number, min(map(_slots, instance.ups))))

    def _introduce(self, number: int) -> None:
        """To all others, and all others to it: rank by rank."""
        for other in self.ready:
            if other != number:
                self._tell_of(number, other)
                self._tell_of(other, number)

    def _tell_of(self, told: int, instance: int) -> None:
        for rank, member in enumerate(self._instances[instance].members):
            up = member.up
            assert up is not None, "it is ready"
            peer = Peer(instance=instance, pid=up.pid, descriptor=up.descriptor, nbytes=up.nbytes)
            self._send(self._instances[told].members[rank], peer)

    def _tell(self, number: int, message: Compute) -> None:
        for member in self._instances[number].members:
            self._send(member, message)

    def _send(self, member: _Member, message: object) -> None:
        try:
            member.channel.send(message)
        except OSError:
            _log.debug("an instance is gone: it is heard next")

    def _lose(self, number: int, error: Exception, news: News) -> None:
        instance = self._instances[number]
        said = f": {error}" if isinstance(error, ChannelError) else ""
        _log.error("instance %d has ended%s", number, said)
        if instance.ready:
            news.lost.append(number)
        self._end(instance)
        self._died.append(time.monotonic())
        if len(self._died) == _MOST_DEATHS and self._died[-1] - self._died[0] < _WITHIN_S:
            raise RunFailed(f"{_MOST_DEATHS} instances died within {_WITHIN_S:.0f} s")
        self._begin(number)

    def _begin(self, number: int) -> None:
        directory = Path(tempfile.mkdtemp(prefix="opsuite-instance-"))  # of mode 0700
        instance = self._instances[number] = _Instance(directory)
        for rank in range(self._tp):
            member = _started()
            instance.members.append(member)
            enter = Enter(
                start=self._start,
                instance=number,
                rank=rank,
                meeting=str(directory / "store") if self._tp > 1 else "",
                slots=self._slots,
            )
            self._send(member, enter)

    def _end(self, instance: _Instance) -> None:
        for member in instance.members:
            member.channel.close()
            member.process.kill()
            member.process.wait()
        instance.members.clear()
        shutil.rmtree(instance.directory, ignore_errors=True)


def _slots(up: Up) -> int:
    return up.slots


def _started() -> _Member:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.serving.instances.process"],
            stdin=theirs.fileno(),
            stdout=sys.stderr,
            env=environment(),
        )
    return _Member(process, Channel(ours, FROM_INSTANCE))
