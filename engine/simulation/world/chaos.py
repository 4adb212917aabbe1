"""The faults: what goes wrong when, by rates that the seed has drawn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.resilience.messages import Asked, Slow, Wish
from engine.simulation.timeline import stream
from engine.simulation.world.scenario import CHAOS_S, RARE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from engine.simulation.world.machine import Machine
    from engine.simulation.world.training import Group
    from engine.simulation.world.world import World

_USUAL = 8
"""Steps of a job after which it is known how large a gradient is."""
_NUMERIC = (Fault.NAN, Fault.GRADIENT, Fault.WEIGHTS)


class Chaos:
    """Strikes until it is called off; each kind of fault has chance of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.over = False
        self._chance: dict[Fault, Random] = {}
        self._strikes: dict[Fault, Callable[[Fault, Random], bool]] = {
            Fault.KILL: self._end_ranks,
            Fault.CRASH: self._end_ranks,
            Fault.ERROR: self._end_ranks,
            Fault.HANG: self._hang,
            Fault.NAN: self._sicken,
            Fault.GRADIENT: self._sicken,
            Fault.WEIGHTS: self._sicken,
            Fault.STUCK: self._stick,
            Fault.SLOW_START: self._delay_start,
            Fault.BAD_HOST: self._spoil,
            Fault.EXECUTOR: self._end_executor,
            Fault.HOST_FREEZE: self._freeze_host,
            Fault.EXECUTOR_FREEZE: self._freeze_executor,
            Fault.DRIVER: self._end_driver,
            Fault.DRIVER_TORN: self._doom_driver,
            Fault.DRIVER_MIDWAY: self._doom_driver,
            Fault.ZOMBIE: self._freeze_driver,
            Fault.DISCONNECT: self._disconnect,
            Fault.STALL: self._stall,
            Fault.ONE_WAY: self._stall,
            Fault.PARTITION: self._stall,
            Fault.DAMAGE: self._damage,
            Fault.CHECK_HANG: self._hang_check,
            Fault.EVICT: self._evict,
            Fault.PAUSE: self._pause,
            Fault.RESTART: self._restart,
            Fault.SLOW_HOST: self._find_slow,
        }

    def plan(self) -> None:
        """From the rates."""
        for fault in self._world.scenario.every_s:
            self._chance[fault] = stream(self._world.scenario.seed, fault)
            self._plan_next(fault)

    def began(self, group: Group) -> None:
        """Ranks have begun: on a bad host they will not last."""
        for name in group.members:
            if self._world.machines[name].bad:
                chance = self._chance[Fault.BAD_HOST]
                lasts_s = chance.expovariate(1 / 15.0)
                self._world.timeline.after(lasts_s, partial(self._fail_again, group, name))

    def _plan_next(self, fault: Fault) -> None:
        chance = self._chance[fault]
        seconds = chance.expovariate(1 / self._world.scenario.every_s[fault])
        if self._world.timeline.now + seconds < CHAOS_S:
            self._world.timeline.after(seconds, lambda: self._strike(fault))

    def _strike(self, fault: Fault) -> None:
        if self.over:
            return
        struck = self._strikes[fault](fault, self._chance[fault])
        if struck:
            self._world.count(fault)
        if not (struck and fault in RARE):
            self._plan_next(fault)

    # -- ranks ---

    def _machine(self, chance: Random) -> Machine:
        return self._world.machines[chance.choice(self._world.scenario.hosts)]

    def _end_ranks(self, fault: Fault, chance: Random) -> bool:
        process = self._machine(chance).process
        if process is None or process.ranks is None or not process.ranks.alive:
            return False
        signal = {Fault.KILL: "SIGKILL", Fault.CRASH: "SIGSEGV"}.get(fault, "")
        process.ranks_fail(process.ranks, signal=signal, what="" if signal else "OSError: it")
        return True

    def _hang(self, fault: Fault, chance: Random) -> bool:
        group = self._world.stepping
        if group is None:
            return False
        group.hung = (chance.randrange(self._world.scenario.ranks), chance.choice("SRTD"))
        return True

    def _sicken(self, fault: Fault, chance: Random) -> bool:
        group = self._world.stepping
        if group is None or group.step < _USUAL:
            return False
        group.sick = (fault, chance.randrange(self._world.scenario.ranks))
        return True

    def _stick(self, fault: Fault, chance: Random) -> bool:
        self._machine(chance).stuck = True
        return True

    def _delay_start(self, fault: Fault, chance: Random) -> bool:
        self._machine(chance).slow_start = True
        return True

    def _spoil(self, fault: Fault, chance: Random) -> bool:
        machine = self._machine(chance)
        machine.bad = True
        group = self._world.stepping
        if group is not None and machine.name in group.members:
            self._fail_again(group, machine.name)
        return True

    def _fail_again(self, group: Group, name: str) -> None:
        machine, chance = self._world.machines[name], self._chance[Fault.BAD_HOST]
        ranks = group.members.get(name)
        if self.over or not machine.bad or group.broken or ranks is None:
            return
        self._world.strikes.append(self._world.timeline.now)
        if chance.random() < 0.5 and group.step >= _USUAL and group.hung is None:
            group.sick = (chance.choice(_NUMERIC), chance.choice(ranks.place.ranks))
        else:
            ranks.process.ranks_fail(ranks, signal="SIGSEGV")

    # -- processes ---

    def _end_executor(self, fault: Fault, chance: Random) -> bool:
        process = self._machine(chance).process
        if process is None:
            return False
        process.die()
        return True

    def _freeze_host(self, fault: Fault, chance: Random) -> bool:
        machine = self._machine(chance)
        until_s = self._world.timeline.now + chance.choice((3.0, 10.0, 60.0))
        machine.frozen_s = max(machine.frozen_s, until_s)
        self._world.invariants.lost(machine.name, machine.frozen_s)
        return True

    def _freeze_executor(self, fault: Fault, chance: Random) -> bool:
        """Its ranks go on. With one host they could for ever, and nobody could help it."""
        process = self._machine(chance).process
        if process is None or self._world.scenario.config.hosts == 1:
            return False
        until_s = self._world.timeline.now + chance.choice((3.0, 10.0, 60.0))
        process.frozen_s = max(process.frozen_s, until_s)
        self._world.invariants.lost(process.name, process.frozen_s)
        return True

    def _end_driver(self, fault: Fault, chance: Random) -> bool:
        driver = self._world.drivers.newest
        if driver is None or not driver.alive:
            return False
        driver.leave()
        driver.die()
        return True

    def _doom_driver(self, fault: Fault, chance: Random) -> bool:
        driver = self._world.drivers.newest
        if driver is None or not driver.alive:
            return False
        driver.leave()
        driver.doom = fault
        return True

    def _freeze_driver(self, fault: Fault, chance: Random) -> bool:
        """Somebody takes it for dead, and starts another; later it wakes up."""
        driver = self._world.drivers.newest
        if driver is None or not driver.alive:
            return False
        driver.leave()
        now, timeline = self._world.timeline.now, self._world.timeline
        driver.frozen_s = max(driver.frozen_s, now + chance.uniform(5.0, 60.0))
        timeline.at(driver.frozen_s, driver.flush)
        timeline.after(chance.uniform(3.0, 30.0), lambda: self._world.drivers.replace(driver))
        return True

    # -- the network ---

    def _disconnect(self, fault: Fault, chance: Random) -> bool:
        connections = self._machine(chance).link.connections
        if not connections:
            return False
        chance.choice(connections).snap()
        return True

    def _stall(self, fault: Fault, chance: Random) -> bool:
        machine, now = self._machine(chance), self._world.timeline.now
        link = machine.link
        until = now + (chance.uniform(1.0, 4.0) if fault is Fault.STALL else chance.uniform(5, 60))
        both = fault is not Fault.ONE_WAY
        if both or chance.random() < 0.5:
            link.up_s = max(link.up_s, until)
        if both or link.up_s < until:
            link.down_s = max(link.down_s, until)
        if fault is not Fault.STALL:
            self._world.invariants.lost(machine.name, until)
        return True

    # -- disks, self-checks, people ---

    def _damage(self, fault: Fault, chance: Random) -> bool:
        return self._world.disk.damage(self._world.timeline.now)

    def _hang_check(self, fault: Fault, chance: Random) -> bool:
        self._machine(chance).hung_checks += 1
        return False  # counted when it hangs

    def _evict(self, fault: Fault, chance: Random) -> bool:
        scenario = self._world.scenario
        if scenario.standbys <= int(scenario.small):  # nobody could take its place
            return False
        machine = self._machine(chance)
        return self._ask(Asked(wish=Wish.EVICT, host=machine.name), machine)

    def _pause(self, fault: Fault, chance: Random) -> bool:
        seconds = chance.uniform(0.5, 20.0)
        self._world.timeline.after(seconds, self._resume)
        return self._ask(Asked(wish=Wish.PAUSE))

    def _resume(self) -> None:
        self._ask(Asked(wish=Wish.RESUME))

    def _restart(self, fault: Fault, chance: Random) -> bool:
        return self._ask(Asked(wish=Wish.RESTART))

    def _find_slow(self, fault: Fault, chance: Random) -> bool:
        driver = self._world.drivers.newest
        if driver is None or not driver.alive:
            return False
        hosts = (self._machine(chance).name,)
        slow = Slow(hosts=hosts, detail="30 % slower", certain=chance.random() < 0.5)
        driver.awake(lambda: driver.handle(slow))
        return True

    def _ask(self, asked: Asked, evicted: Machine | None = None) -> bool:
        driver = self._world.drivers.newest
        if driver is None or not driver.alive:
            return False
        if evicted is not None:
            evicted.evicted = True
        driver.awake(lambda: driver.handle(asked))
        return True
