"""The driver of a job: ``python -P -m engine.supervision.driver_process RUN``.

It listens for executors, tells its state machine (:class:`engine.resilience.driver.Driver`) what
they report, writes down what the next driver must know, and then carries out what was decided. It
imports no torch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from collectors.atomic import write_atomically
from collectors.clock import host_name
from collectors.errors import DataError, UsageError
from collectors.recorder import Identity, NullRecorder, open_recorder
from collectors.settings import Settings
from engine.lifeline import end_with
from engine.resilience.driver import Driver, Phase
from engine.resilience.effects import CallHook, FindOnDisk, Finish, Note, Tell
from engine.resilience.messages import (
    ORDERS,
    REPORTS,
    Asked,
    Beat,
    Disconnected,
    Hello,
    OnDisk,
    Slow,
    Tick,
    Wish,
)
from engine.supervision.control import ControlSocket
from engine.supervision.driver_state import DriverState
from engine.supervision.job_spec import DRIVER, JobSpec
from engine.supervision.meeting_place import tell_address
from engine.supervision.news import News
from engine.supervision.tasks import Tasks
from engine.supervision.wire import HEARD, WireError, accept, read_key
from engine.training.checkpoint import CheckpointStore
from engine.training.config import RunConfig

if TYPE_CHECKING:
    from collectors.recorder import Recorder
    from engine.resilience.effects import Effect
    from engine.resilience.messages import Event, Order
    from engine.supervision.wire import Channel

_log = logging.getLogger("opsuite")
_TICK_S = 0.1
_HOOK_S = 30.0
_FAREWELL_S = 3.0
RESULT = "result.json"
REPLACED = "replaced"  # by a newer driver, whose job it is now


class DriverProcess:
    """Runs one driver."""

    def __init__(self, run: Path, address: str, recorder: Recorder) -> None:
        self._run = run
        self._address = address
        self._recorder = recorder
        self._spec = JobSpec.read(run)
        self._key = read_key(run)
        config = RunConfig.model_validate(self._spec.config)
        self._config = config.resilience
        self._state = DriverState(run)
        self._driver = Driver(
            config.resilience,
            generation=self._state.generation,
            ranks_per_host=config.ranks_per_host,
            last_step=config.train.steps,
            now=time.monotonic(),
            on_disk=self._spec.first_step - 1,
            past=self._state.past,
        )
        self._channels: dict[str, Channel] = {}
        self._tasks = Tasks()
        self._news = News(self._state.generation)
        self._over = asyncio.Event()
        self._replaced = False

    async def main(self) -> None:
        """Until the job is over."""
        server = await asyncio.start_server(self._serve, self._address, 0)
        port = server.sockets[0].getsockname()[1]
        tell_address(self._run, f"{self._address}:{port}", self._state.generation)
        name = "driver" if self._state.past is None else "driver-lost"
        self._note(Note(name=name, facts={"generation": self._state.generation}))
        control = ControlSocket(self._run, self._ask, self._describe, self._news.after)
        await control.open()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)
        while not self._over.is_set():
            self._replaced = self._replaced or self._state.replaced
            if self._replaced:  # the address, the control socket and the result are the newer one's
                _log.info("a newer driver has taken over")
                return
            self._happen(Tick())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _TICK_S)
        await self._say_farewell()
        control.close()
        server.close()

    # -- executors ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello: Hello | None = None
        channel: Channel | None = None
        try:
            channel = await accept(reader, writer, self._key)
            report = REPORTS.validate_json(await channel.receive())
            if not isinstance(report, Hello):
                return
            hello = report
            self._channels[hello.host] = channel
            while True:
                self._happen(report)
                if isinstance(report, Beat):
                    await channel.send(HEARD + str(len(report.done)).encode())
                report = REPORTS.validate_json(await channel.receive())
        except (OSError, EOFError, TimeoutError) as error:
            _log.info("an executor's connection has ended: %r", error)
        except (WireError, ValueError) as error:
            _log.warning("refused: %s", error)
        finally:
            writer.close()
            if hello is not None and self._channels.get(hello.host) is channel:
                del self._channels[hello.host]
                self._happen(Disconnected(host=hello.host, incarnation=hello.incarnation))

    async def _send(self, channel: Channel, order: Order) -> None:
        with suppress(OSError):  # its end is told by who reads from it
            await channel.send(ORDERS.dump_json(order))

    # -- decisions ---

    def _happen(self, event: Event) -> None:
        promised = self._driver.promised
        effects = self._driver.handle(event, time.monotonic())
        changed = effects or promised != self._driver.promised
        if changed or not isinstance(event, Tick | Beat) or self._state.is_old:
            self._state.keep(self._driver.to_json())
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Tell():  # to who is connected now: a later incarnation must not get it
                if channel := self._channels.get(effect.host):
                    self._tasks.spawn(self._send(channel, effect.order))
            case FindOnDisk():
                self._tasks.spawn(self._find_on_disk(effect.at_most))
            case CallHook():
                self._tasks.spawn(self._call_hook(effect))
            case Note():
                self._note(effect)
            case Finish():
                self._finish(effect)
            case _:
                assert_never(effect)

    async def _find_on_disk(self, at_most: int | None) -> None:
        step = await asyncio.to_thread(self._newest_whole, at_most)
        self._happen(OnDisk(step=step))

    def _newest_whole(self, at_most: int | None) -> int:
        for found in CheckpointStore(self._run / "checkpoints", 1).check_all():
            if isinstance(found, DataError):
                _log.warning("a checkpoint is damaged: %s", found)
                self._recorder.event("checkpoint.damaged", attributes={"what": str(found)})
            elif at_most is None or found.step <= at_most:
                return found.step
        return 0

    async def _call_hook(self, call: CallHook) -> None:
        if not self._config.hook:
            return
        command = [*self._config.hook, call.what, call.host, call.reason]
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
            code = await asyncio.wait_for(process.wait(), _HOOK_S)
        except (OSError, TimeoutError) as error:
            code = -1
            _log.warning("the site's hook failed: %r", error)
        facts = {"what": call.what, "host": call.host, "exit_code": code}
        self._recorder.event("hook", attributes=facts)

    def _note(self, note: Note) -> None:
        _log.info("%s %s", note.name, note.facts)
        self._news.add(note)
        self._recorder.event(f"job.{note.name}", attributes=note.facts)

    def _finish(self, finish: Finish) -> None:
        if finish.status == REPLACED:
            self._replaced = True
            return
        ledger = self._driver.ledger
        spent = {str(cause): seconds for cause, seconds in ledger.spent_s.items()}
        facts = {
            "status": finish.status,
            "reason": finish.reason,
            "attempts": self._driver.attempts,
            "wall_s": ledger.wall_s,
            "effective": ledger.effective,
            "spent_s": spent,
            "gap": ledger.gap,
        }
        self._recorder.event("job.ledger", attributes=facts)
        write_atomically(self._run / DRIVER / RESULT, json.dumps(facts, indent=2))
        self._over.set()

    async def _say_farewell(self) -> None:
        """Executors are told that the job is over, also those that come back just now."""
        end = time.monotonic() + _FAREWELL_S
        while self._channels and time.monotonic() < end:
            await asyncio.sleep(0.05)

    # -- people ---

    def _ask(self, asked: Asked | Slow) -> None:
        known = [host.name for host in self._driver.roster]
        if isinstance(asked, Asked) and asked.host and asked.host not in known:
            raise UsageError(
                f"no host {asked.host} has joined the job: there are {', '.join(known)}"
            )
        ranks = sum(place.count for place in self._driver.places)
        if isinstance(asked, Slow) and max(asked.ranks) >= ranks:
            raise UsageError(f"the job has ranks 0 to {ranks - 1}")
        self._happen(asked)

    def _describe(self) -> dict[str, Any]:
        driver = self._driver
        return {
            "phase": str(driver.phase),
            "generation": driver.generation,
            "attempt": driver.attempt,
            "acknowledged": driver.past.acknowledged,
            "effective": driver.ledger.effective,
            "effective_lately": driver.ledger.effective_lately,
            "spent_s": {str(cause): each for cause, each in driver.ledger.spent_s.items()},
            "places": {place.host: list(place.ranks) for place in driver.places},
            "hosts": [
                {
                    "host": host.name,
                    "here": host.here,
                    "running": host.running,
                    "suspect": host.suspect,
                    "blocked": host.why_blocked,
                }
                for host in driver.roster
            ],
        }

    def _stop(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._driver.phase is not Phase.OVER:
            self._happen(Asked(wish=Wish.STOP, why=f"interrupted by {name}"))


def _open_recorder(run: Path) -> Recorder:
    if not Settings.from_environment().record:
        return NullRecorder()
    spec = JobSpec.read(run)
    world_size = RunConfig.model_validate(spec.config).parallel.world_size
    identity = Identity(
        run_id=spec.run_id,
        role="driver",
        rank=None,
        world_size=world_size,
        host=host_name(),
        coordinates={},
    )
    return open_recorder(run / "spool", identity)


def main() -> None:
    """Drive a job until it is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--parent", type=int, default=0, help="a process it must not outlive")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.parent:
        end_with(arguments.parent)
    with closing(_open_recorder(arguments.run)) as recorder:
        asyncio.run(DriverProcess(arguments.run, arguments.address, recorder).main())


if __name__ == "__main__":
    main()
