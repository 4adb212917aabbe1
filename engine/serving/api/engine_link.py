"""The engine's process, seen from the API's: started, spoken to, and started again when it dies.

What its clients were given already is kept here. A new engine is told of every open request with
that, and goes on where the old one was: draws depend on the seed and the place in the output alone,
so the text is what it would have been, and no client notices but by the delay.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError, RunFailed
from engine.serving.api.open_requests import OpenRequests
from engine.serving.channel import ChannelError, framed, read
from engine.serving.wire import TO_API, Join, Load, Progress, Ready, Refusal, Start, Withdraw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.serving.request import GenerationRequest, Token
    from engine.serving.wire import ToApi, ToEngine

_log = logging.getLogger(__name__)
_MOST_DEATHS, _WITHIN_S = 5, 60.0
_LEAVE_S = 5.0


class EngineLink:
    """Of one event loop.

    Args:
        patience_s: an engine that has requests and says nothing for so long is replaced.

    Attributes:
        alive: whether requests are taken: also while a dead engine is being replaced, but no
            longer when engines die too often.
        load: as last told.
        restarts: so far.
    """

    def __init__(self, start: Start, *, patience_s: float = 300.0) -> None:
        self._start = start
        self._patience_s = patience_s
        self._spoke_s = 0.0
        self._deliver: Callable[[Sequence[Token]], None] = lambda _: None
        self._open = OpenRequests()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._died: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._closing = False
        self._hears = False
        self.alive = False
        self.load = Load()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Of the engine's process; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def answers(self) -> bool:
        """Whether there is an engine, and it does not keep requests waiting for long."""
        return self.alive and self._hears and self._silent_s() < self._patience_s / 10

    async def open(self, deliver: Callable[[Sequence[Token]], None]) -> Ready:
        """Start the engine and wait until it is ready.

        Args:
            deliver: takes tokens, and must not block.

        Raises:
            OpsuiteError: it cannot serve the model; as it says itself.
        """
        self._deliver = deliver
        ready = await self._begin()
        self.alive = True
        return ready

    async def run(self) -> None:
        """Hear what the engine says, and replace it when it dies, until it dies too often."""
        while self.alive:
            try:
                while self._reader:
                    self._take(await read(self._reader, TO_API))
            except (EOFError, OSError, ChannelError) as error:
                if self._closing:
                    return
                said = f": {error}" if isinstance(error, ChannelError) else ""
                _log.error("the engine's process has ended%s", said)
                await self._end()
            self.alive = await self._again()

    async def watch(self) -> None:
        """Kill an engine that hangs; :meth:`run` replaces it."""
        while self.alive:
            await asyncio.sleep(min(1.0, self._patience_s / 10))
            if self._hears and self._process and self._silent_s() > self._patience_s:
                _log.error("the engine has said nothing for %.0f s", self._patience_s)
                self._spoke_s = time.monotonic()
                self._process.kill()

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Let requests join."""
        if not self._open:
            self._spoke_s = time.monotonic()
        self._open.add(requests)
        self._join(tuple(requests))

    def cancel(self, numbers: Sequence[int]) -> None:
        """Withdraw requests; those that ended already are passed over."""
        joining = self._open.forget(numbers)
        self._send(Withdraw(tuple(numbers)))
        self._join(joining)

    async def close(self) -> None:
        """End the engine."""
        self._closing = True
        self.alive = False
        await self._end()

    def _silent_s(self) -> float:
        """For how long an engine that has something to do has said nothing."""
        return time.monotonic() - self._spoke_s if self._open else 0.0

    def _join(self, requests: tuple[GenerationRequest, ...]) -> None:
        if requests:
            self._send(Join(requests))

    def _send(self, message: ToEngine) -> None:
        """Nothing is said to an engine that is not ready: all that is open is told when it is."""
        if self._hears and self._writer and not self._writer.is_closing():
            self._writer.write(framed(message))

    def _take(self, message: ToApi) -> None:
        if not isinstance(message, Progress):
            raise ChannelError(f"{type(message).__name__} out of turn")
        self.load = message.load
        self._spoke_s = time.monotonic()
        self._join(self._open.take(message.tokens, message.unproven))
        if message.tokens:
            self._deliver(message.tokens)

    async def _begin(self) -> Ready:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "engine.serving.worker.process"),
                stdin=theirs.fileno(),
                stdout=sys.stderr,
                start_new_session=True,
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._writer.write(framed(self._start))
        try:
            message = await read(self._reader, TO_API)
        except (EOFError, OSError, ChannelError):
            await self._end()
            raise RunFailed(
                "the engine's process ended before it was ready", remedy="see its words above"
            ) from None
        if isinstance(message, Refusal):
            await self._end()
            raise message.error
        assert isinstance(message, Ready), "the first word"
        self._hears = True
        self._spoke_s = time.monotonic()
        return message

    async def _again(self) -> bool:
        """Replace a dead engine; False: engines die too often."""
        while not self._dies_too_often():
            try:
                await self._begin()
            except RunFailed as error:
                _log.error("%s", error.what)
                continue
            except OpsuiteError as error:
                _log.error("%s", error)
                return False
            self.restarts += 1
            failed, joining = self._open.bury()
            self._deliver(failed)
            self._join(joining)
            return True
        _log.error("%d engines died within %.0f s: no more is started", _MOST_DEATHS, _WITHIN_S)
        return False

    def _dies_too_often(self) -> bool:
        self._died.append(time.monotonic())
        return len(self._died) == _MOST_DEATHS and self._died[-1] - self._died[0] < _WITHIN_S

    async def _end(self) -> None:
        self._hears = False
        if self._writer:
            self._writer.close()
            self._writer = None
        if self._process:
            try:
                async with asyncio.timeout(_LEAVE_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
            self._process = None
