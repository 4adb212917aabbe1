"""Between a rank and its host's executor: one Unix socket, JSON messages, memory by descriptor.

A copy of a rank's state is a piece of anonymous memory that both have mapped: the rank writes it,
and the executor keeps its descriptor, so that it outlives the rank.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from collectors.errors import RunFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MOST_BYTES = 1 << 16
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, kw_only=True)
class CopyMemory:
    """The state of a rank after a step, in memory.

    Attributes:
        descriptor: of the memory; who gets it closes it.
    """

    step: int
    size_bytes: int
    crc32: int
    descriptor: int


class RankEnd:
    """The rank's end; any of its threads may use it.

    Args:
        path: of the executor's socket.

    Raises:
        RunFailed: nobody listens there.
    """

    def __init__(self, path: str, *, rank: int, attempt: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._lock = threading.Lock()
        try:
            self._socket.connect(path)
        except OSError as error:
            raise RunFailed(f"this host's executor is gone: {error.strerror}", where=path) from None
        self.say("here", rank=rank, attempt=attempt, pid=os.getpid())

    def say(self, kind: str, **facts: Any) -> None:  # noqa: ANN401
        """Tell the executor something."""
        self._send({"kind": kind, **facts})

    def give(self, copy: CopyMemory) -> None:
        """Let the executor have a copy."""
        self._send(
            {"kind": "copy", "step": copy.step, "bytes": copy.size_bytes, "crc": copy.crc32},
            copy.descriptor,
        )

    def want(self, step: int) -> CopyMemory:
        """This rank's copy after ``step``, wherever it is.

        Raises:
            RunFailed: nobody holds it any more.
        """
        with self._lock:
            self._socket.send(json.dumps({"kind": "want", "step": step}).encode())
            content, descriptors, _, _ = socket.recv_fds(self._socket, _MOST_BYTES, 1)
        answer = json.loads(content) if content else {}
        if not descriptors:
            raise RunFailed(
                f"the copy of this rank's state after step {step} is gone",
                where=str(answer.get("why", "the executor")),
            )
        return CopyMemory(
            step=step,
            size_bytes=answer["bytes"],
            crc32=answer["crc"],
            descriptor=descriptors[0],
        )

    def close(self) -> None:
        """Say no more."""
        self._socket.close()

    def _send(self, message: Mapping[str, Any], *descriptors: int) -> None:
        content = json.dumps(message).encode()
        with self._lock:
            try:
                socket.send_fds(self._socket, [content], descriptors)
            except OSError as error:
                raise RunFailed("this host's executor is gone") from error


class RankListener(Protocol):
    """What an executor does with what its ranks say."""

    def rank_says(self, pid: int, message: dict[str, Any]) -> None:
        """A message; the first of each rank is of kind "here"."""
        ...

    def rank_gives(self, pid: int, copy: CopyMemory) -> None:
        """A copy; its descriptor is the listener's now."""
        ...

    async def rank_wants(self, pid: int, step: int) -> CopyMemory | str:
        """Its copy, whose descriptor stays the listener's; or why there is none."""
        ...

    def rank_gone(self, pid: int) -> None:
        """It has ended, or closed its end."""
        ...


class HostEnd:
    """The executor's end: listens for its ranks, which are processes of the same user.

    Args:
        path: of the socket, in a directory that only its owner can enter.
    """

    def __init__(self, path: Path, listener: RankListener) -> None:
        self.path = path
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._answers: set[asyncio.Task[None]] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(1024)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        rank, _ = self._socket.accept()
        pid, uid, _ = _CREDENTIALS.unpack(
            rank.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid != os.geteuid():
            rank.close()
            return
        rank.setblocking(False)
        self._loop.add_reader(rank, self._hear, rank, pid)

    def _hear(self, rank: socket.socket, pid: int) -> None:
        try:
            content, descriptors, _, _ = socket.recv_fds(rank, _MOST_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            content, descriptors = b"", []
        if not content:
            self._loop.remove_reader(rank)
            rank.close()
            self._listener.rank_gone(pid)
            return
        self._take(rank, pid, json.loads(content), descriptors)

    def _take(
        self, rank: socket.socket, pid: int, message: dict[str, Any], descriptors: list[int]
    ) -> None:
        if message["kind"] == "copy" and descriptors:
            copy = CopyMemory(
                step=message["step"],
                size_bytes=message["bytes"],
                crc32=message["crc"],
                descriptor=descriptors[0],
            )
            self._listener.rank_gives(pid, copy)
        elif message["kind"] == "want":
            task = self._loop.create_task(self._answer(rank, pid, message["step"]))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        else:
            self._listener.rank_says(pid, message)

    async def _answer(self, rank: socket.socket, pid: int, step: int) -> None:
        found = await self._listener.rank_wants(pid, step)
        answer: dict[str, Any]
        if isinstance(found, str):
            answer, descriptors = {"why": found}, []
        else:
            answer = {"bytes": found.size_bytes, "crc": found.crc32}
            descriptors = [found.descriptor]
        try:
            socket.send_fds(rank, [json.dumps(answer).encode()], descriptors)
        except OSError:
            return  # it has ended meanwhile
