"""An executor's handle on its warm process: starts it, has it run ranks, ends these."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.supervision.task import Task

_READY_S = 120.0
_BY_ITSELF_S = 2.0  # for the agent to notice that its ranks were ended
_LINE_BYTES = 1 << 20


class WarmRanks:
    """One process at a time; where it has ended, another is started.

    Args:
        log: where what it prints goes.
        environment: of it and of the ranks; libraries read it when they are loaded.
    """

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._environment = {**os.environ, **environment}
        self._process: asyncio.subprocess.Process | None = None
        self._pids: set[int] = set()
        self._running = False
        self._warming = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    async def warm_up(self) -> None:
        """Start it, and wait until it is warm."""
        async with self._warming:
            if self._process is None or self._process.returncode is not None:
                await self._start()

    async def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "engine.supervision.ranks_process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_BYTES,
                start_new_session=True,
                env=self._environment,
            )
        await asyncio.wait_for(self._answer(), _READY_S)

    async def run(self, task: Task) -> dict[str, Any]:
        """Run ranks; gives how they ended (see :mod:`engine.supervision.ranks_process`)."""
        self._idle.clear()
        self._running = True
        try:
            await self.warm_up()
            assert self._process is not None and self._process.stdin is not None
            self._process.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
            await self._process.stdin.drain()
            return await self._answer()
        except (OSError, EOFError, TimeoutError) as error:
            what = f"the process that starts ranks has ended: {type(error).__name__}"
            return {"well": False, "what": what}
        finally:
            self._running = False
            self._pids.clear()
            self._idle.set()

    def rank_is(self, pid: int) -> None:
        """A rank that it runs."""
        self._pids.add(pid)

    async def end(self) -> None:
        """End the ranks at once; returns when none is left."""
        self.kill_ranks()
        try:
            await asyncio.wait_for(self._idle.wait(), _BY_ITSELF_S)
        except TimeoutError:
            self.kill()
            await self._idle.wait()

    def kill_ranks(self) -> None:
        """End the ranks that are known; the agent will notice."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process, and with it its template and all ranks."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer
