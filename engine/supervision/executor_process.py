"""The executor of a host: ``python -P -m engine.supervision.executor_process RUN HOST [...]``.

It keeps one connection to the job's driver, sends heartbeats, carries out what its state machine
(:class:`engine.resilience.executor.Executor`) decides, and holds copies of ranks' states for itself
and for its peer. It imports no torch: the warm process beside it does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import secrets
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from collectors.clock import host_name
from engine.lifeline import end_with
from engine.resilience.executor import (
    CheckEnded,
    DriverHeard,
    DropCopies,
    EndRanks,
    Examine,
    Executor,
    Leave,
    RanksBegan,
    RanksEnded,
    RanksGone,
    RunRanks,
    Send,
    TimePassed,
)
from engine.resilience.messages import ORDERS, REPORTS, Beat, Hello, Saved, StepDone
from engine.supervision.attempt import HostAttempt
from engine.supervision.copies import Copies
from engine.supervision.copy_exchange import LOST, CopyServer, fetch, give
from engine.supervision.examination import examine
from engine.supervision.host_view import interface_of, sent_bytes
from engine.supervision.job_spec import JobSpec
from engine.supervision.meeting_place import find_driver
from engine.supervision.rank_link import HostEnd
from engine.supervision.tasks import Tasks
from engine.supervision.warm_ranks import WarmRanks
from engine.supervision.wire import HEARD, connect, read_key
from engine.training.checkpoint import newest_step
from engine.training.config import RunConfig

if TYPE_CHECKING:
    from engine.resilience.executor import Action, Happening
    from engine.resilience.messages import Report
    from engine.supervision.rank_link import CopyMemory
    from engine.supervision.wire import Channel

_log = logging.getLogger("opsuite")
_RETRY_S = 0.2
_MOST_DONE = 2000  # steps that are told once a driver is there again
_LINK_GONE_S = 1.0  # from the end of a rank's link to the agent's word on it


class ExecutorProcess:
    """Runs one executor.

    Args:
        address: of this host, where others reach it.
    """

    def __init__(self, run: Path, host: str, address: str) -> None:
        self._run = run
        self._host = host
        self._address = address
        self._spec = JobSpec.read(run)
        self._config = RunConfig.model_validate(self._spec.config)
        self._key = read_key(run)
        self._incarnation = secrets.token_hex(8)
        self._executor = Executor(host, self._config.resilience, now=time.monotonic())
        self._copies = Copies()
        self._server = CopyServer(self._copies, self._key)
        environment = {"OMP_NUM_THREADS": str(self._config.parallel.threads_per_rank)}
        self._interface = interface_of(address)
        if self._interface:
            environment["GLOO_SOCKET_IFNAME"] = self._interface
        self._warm = WarmRanks(run / "logs" / f"executor-{host}.log", environment)
        self._room = Path(tempfile.mkdtemp(prefix="opsuite-"))
        self._attempt: HostAttempt | None = None
        self._channel: Channel | None = None
        self._done: list[StepDone] = []
        self._done_attempt = 0
        self._saved = 0
        self._unsent: list[Report] = []
        self._tasks = Tasks()
        self._giving: dict[int, asyncio.Task[None]] = {}
        self._over = asyncio.Event()

    async def main(self) -> None:
        """Until the job is over."""
        self._link = HostEnd(self._room / "ranks.sock", self)
        await self._server.open(self._address)
        self._tasks.spawn(self._warm.warm_up())
        self._tasks.spawn(self._speak())
        self._tasks.spawn(self._beat())
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._over.set)
        await self._over.wait()
        self._warm.kill()
        self._link.close()
        self._server.close()
        shutil.rmtree(self._room, ignore_errors=True)

    # -- the driver ---

    async def _speak(self) -> None:
        """One connection after the other."""
        while not self._over.is_set():
            try:
                address = find_driver(self._run)
                channel = await connect(address, self._key)
                await self._converse(channel)
            except LOST as error:
                _log.info("no driver: %s", error)
            self._channel = None
            await asyncio.sleep(_RETRY_S)

    async def _converse(self, channel: Channel) -> None:
        executor = self._executor
        hello = Hello(
            host=self._host,
            incarnation=self._incarnation,
            slots=self._config.ranks_per_host,
            address=f"{self._address}:{self._server.port}",
            hardware=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            generation=executor.generation,
            attempt=executor.attempt,
            copies=self._copies.all,
        )
        await channel.send(REPORTS.dump_json(hello))
        self._channel = channel
        unsent, self._unsent = self._unsent, []
        for report in unsent:
            await self._send(report)
        try:
            while True:
                content = await channel.receive()
                if content.startswith(HEARD):
                    del self._done[: int(content.removeprefix(HEARD))]
                    self._happen(DriverHeard())
                else:
                    self._happen(ORDERS.validate_json(content))
        finally:
            self._channel = None
            await channel.close()

    async def _send(self, report: Report) -> None:
        """Now, or to the next driver."""
        channel = self._channel
        if channel is None:
            self._unsent.append(report)
            return
        try:
            await channel.send(REPORTS.dump_json(report))
        except OSError:
            self._unsent.append(report)

    async def _beat(self) -> None:
        while not self._over.is_set():
            self._happen(TimePassed())
            self._tell_saved()
            await self._beat_once()
            await asyncio.sleep(self._config.resilience.beat_s)

    async def _beat_once(self) -> None:
        if self._channel is not None:
            with suppress(OSError):  # its end is told by who reads from it
                await self._channel.send(REPORTS.dump_json(self._heartbeat()))

    def _tell_saved(self) -> None:
        """The newest checkpoint that the job has published, once; the first host does so."""
        attempt = self._attempt
        if attempt is None or attempt.place.first:
            return
        step = newest_step(self._run / "checkpoints")
        if step > self._saved:
            self._saved = step
            number = attempt.order.attempt
            self._tasks.spawn(self._send(Saved(host=self._host, attempt=number, step=step)))

    def _heartbeat(self) -> Beat:
        attempt = self._attempt
        return Beat(
            host=self._host,
            incarnation=self._incarnation,
            attempt=self._executor.attempt,
            ranks=attempt.view.look() if attempt else (),
            done=tuple(self._done),
            done_attempt=self._done_attempt,
            copies=self._copies.all,
            sent_bytes=sent_bytes(self._interface),
            round_trip_s=self._channel.round_trip_s() if self._channel else None,
            lines=attempt.lines.new() if attempt else (),
        )

    # -- decisions ---

    def _happen(self, happening: Happening) -> None:
        for action in self._executor.handle(happening, time.monotonic()):
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Send():
                self._tasks.spawn(self._send(action.report))
            case RunRanks():
                self._tasks.spawn(self._run_ranks(action))
            case EndRanks():
                self._tasks.spawn(self._end_ranks(action.attempt))
            case DropCopies():
                self._copies.drop_after(action.after)
            case Examine():
                self._tasks.spawn(self._examine(action))
            case Leave():
                _log.info("leaving: %s", action.why)
                self._tasks.spawn(self._leave())
            case _:
                assert_never(action)

    async def _run_ranks(self, action: RunRanks) -> None:
        self._done.clear()
        self._done_attempt = action.order.attempt
        self._saved = action.order.step
        attempt = HostAttempt(
            action.order,
            host=self._host,
            run=self._run,
            spec=self._spec,
            config=self._config,
            socket=self._link.path,
            pid=os.getpid(),
        )
        self._attempt = attempt
        ended = await attempt.run(self._warm)
        await self._beat_once()  # what they have done is told before their end is
        self._attempt = None
        self._happen(RanksEnded(how=ended))

    async def _end_ranks(self, attempt: int) -> None:
        await self._warm.end()
        while self._attempt is not None:  # what was prepared for them is put away
            await asyncio.sleep(0.01)
        self._happen(RanksGone(attempt=attempt))

    async def _examine(self, action: Examine) -> None:
        found = await examine(action.order, self._host)
        self._happen(CheckEnded(how=found))

    async def _leave(self) -> None:
        await asyncio.sleep(0.05)  # what was to be sent is sent
        self._over.set()

    # -- ranks (:class:`engine.supervision.rank_link.RankListener`) ---

    def rank_says(self, pid: int, message: dict[str, Any]) -> None:
        attempt = self._attempt
        if message["kind"] == "here":
            self._warm.rank_is(pid)
        if attempt is None or message.get("attempt", attempt.order.attempt) != (
            attempt.order.attempt
        ):
            return
        match message["kind"]:
            case "here":
                attempt.pids[message["rank"]] = pid
            case "began":
                attempt.began.add(pid)
                if len(attempt.began) == attempt.place.count:
                    self._happen(RanksBegan(attempt=attempt.order.attempt))
            case "finished":
                attempt.finished.add(pid)
            case "done":
                self._done.append(StepDone(**message["done"]))
                del self._done[:-_MOST_DONE]

    def rank_gives(self, pid: int, copy: CopyMemory) -> None:
        attempt = self._attempt
        rank = self._rank_of(pid)
        if attempt is None or rank is None:
            os.close(copy.descriptor)
            return
        number = attempt.order.attempt
        self._copies.keep(number, rank, copy)
        places = attempt.order.places
        peer = places[(places.index(attempt.place) + 1) % len(places)]
        if peer.host != self._host:
            earlier = self._giving.get(rank)
            if earlier is not None and not earlier.done():
                return  # the peer gets the next one: it must not fall behind ever more
            shared = replace(copy, descriptor=os.dup(copy.descriptor))
            task = self._tasks.spawn(self._give(peer.address, number, rank, shared))
            self._giving[rank] = task

    async def rank_wants(self, pid: int, step: int) -> CopyMemory | str:
        attempt, rank = self._attempt, self._rank_of(pid)
        if attempt is None or rank is None:
            return "its attempt is over"
        origin = attempt.order.origin
        found = self._copies.find(rank, step, origin)
        if found is None:
            source = attempt.order.sources[rank]
            try:
                found = await fetch(source, self._key, rank=rank, step=step, attempt=origin)
            except LOST as error:
                return f"{source}: {error}"
            if found is None:
                return f"{source} does not hold it"
            self._copies.keep(origin, rank, found)
        return found

    def rank_gone(self, pid: int) -> None:
        """The agent says how it ended, as soon as it has ended the others: they may need help."""
        attempt = self._attempt
        if attempt is not None and self._rank_of(pid) is not None and pid not in attempt.finished:
            self._tasks.spawn(self._help_the_agent(attempt))

    async def _help_the_agent(self, attempt: HostAttempt) -> None:
        await asyncio.sleep(_LINK_GONE_S)
        if attempt is self._attempt:
            self._warm.kill_ranks()

    async def _give(self, address: str, attempt: int, rank: int, copy: CopyMemory) -> None:
        try:
            await give(address, self._key, attempt=attempt, rank=rank, memory=copy)
        except LOST as error:
            _log.warning("a copy of rank %d was not given to %s: %s", rank, address, error)
        finally:
            os.close(copy.descriptor)

    def _rank_of(self, pid: int) -> int | None:
        pids = self._attempt.pids if self._attempt is not None else {}
        return next((rank for rank, known in pids.items() if known == pid), None)


def main() -> None:
    """Run an executor until its job is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--host", default=host_name())
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--parent", type=int, default=0, help="a process it must not outlive")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.parent:
        end_with(arguments.parent)
    with suppress(KeyboardInterrupt):
        asyncio.run(ExecutorProcess(arguments.run, arguments.host, arguments.address).main())


if __name__ == "__main__":
    main()
