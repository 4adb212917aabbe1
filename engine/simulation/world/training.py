"""Ranks that train: they step together or not at all, and their state shows what was done to it.

The state after a step is a chain over all steps before, so that a run that went right has exactly
one state after each. A corruption enters the chain and never leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.resilience.messages import Copy, Ended, RankState, Saved, StepDone
from engine.simulation.world.scenario import CHECKPOINT_EVERY, STEP_S, Fault

if TYPE_CHECKING:
    from engine.resilience.messages import Start
    from engine.simulation.world.executors import ExecutorProcess
    from engine.simulation.world.world import World

_BITS = 2**64
_HANGS = ("S", "R", "T", "D")


def after(state: int, step: int) -> int:
    """The state after a step that went right."""
    return (state * 6364136223846793005 + 2 * step + 1) % _BITS


def right(step: int) -> int:
    """The state that a right run has after ``step``."""
    state = 0
    for each in range(1, step + 1):
        state = after(state, each)
    return state


@dataclass(slots=True, kw_only=True)
class Corruption:
    """A state that went wrong.

    Attributes:
        step: the first that was wrong.
        told: by generation of the driver, the ranks whose numbers of that step it was told.
        known: whether a driver was told all of them before it began the attempt that is going on.
    """

    attempt: int
    step: int
    told: dict[int, set[int]] = field(default_factory=dict)
    known: bool = False


class HostRanks:
    """The ranks of one attempt on one host.

    Attributes:
        steps: the last that they have done; -1 before they have begun.
        alive: whether any can still do something.
        present: whether any is still there.
    """

    def __init__(self, process: ExecutorProcess, order: Start) -> None:
        self.process = process
        self.order = order
        self.attempt = order.attempt
        self.place = next(place for place in order.places if place.host == process.name)
        self.step = -1
        self.alive = True
        self.present = True

    def states(self, group: Group | None) -> tuple[RankState, ...]:
        """What the executor sees of them."""
        hung = group.hung if group is not None else None
        waits = "" if hung is None else "dp all_reduce"
        return tuple(
            RankState(
                rank=rank,
                step=self.step,
                waits_in="" if hung is not None and rank == hung[0] else waits,
                process=hung[1] if hung is not None and rank == hung[0] else "S",
            )
            for rank in self.place.ranks
        )


class Group:
    """All ranks of an attempt: it steps while every host's are there."""

    def __init__(self, world: World, order: Start) -> None:
        self._world = world
        self._chance = world.chance("ranks")
        self.order = order
        self.attempt = order.attempt
        self.members: dict[str, HostRanks] = {}
        self.step = order.step
        self.state = 0
        self.broken = False
        self.hung: tuple[int, str] | None = None
        self.sick: tuple[Fault, int] | None = None
        self.begun_s: float | None = None
        self._step_begun_s = 0.0

    def join(self, ranks: HostRanks, state: int) -> None:
        """A host's ranks are up, and have loaded their state."""
        self._world.invariants.joined(self, ranks, state)
        self.members[ranks.process.name] = ranks
        self.state = state
        if len(self.members) == len(self.order.places) and not self.broken:
            self._begin()

    def leave(self, host: str) -> None:
        """A host's ranks are gone: the others cannot step without them."""
        if self.members.pop(host, None) is None or self.broken:
            return
        self.broken = True
        for ranks in list(self.members.values()):
            if self._chance.random() < 0.8:  # else they wait, and notice nothing
                self._world.timeline.after(self._chance.uniform(0.05, 2.0), _Lonely(ranks).fail)

    def _begin(self) -> None:
        now = self._world.timeline.now
        self.begun_s = self._step_begun_s = now
        for ranks in list(self.members.values()):
            ranks.step = self.step
            ranks.process.begin(ranks)
        self._world.chaos.began(self)
        self._plan()

    def _plan(self) -> None:
        if self.step >= self._world.scenario.last_step:
            self._world.timeline.after(self._chance.uniform(0.05, 0.5), self._finish)
        else:
            seconds = STEP_S * self._chance.uniform(0.8, 1.2)
            self._world.timeline.after(seconds, self._step)

    def _step(self) -> None:
        if self.broken or self.hung is not None:
            return
        asleep = max(ranks.process.machine.frozen_s for ranks in self.members.values())
        if asleep > self._world.timeline.now:  # the others wait in a collective
            self._world.timeline.at(asleep + STEP_S, self._step)
            return
        if self._fails_every_time():
            return
        self.step += 1
        self.state = after(self.state, self.step)
        sick = self._sicken()
        self._tell(sick)
        self._world.invariants.stepped(self)
        self._keep()
        self._plan()

    def _fails_every_time(self) -> bool:
        if self.step + 1 != self._world.scenario.fails_at:
            return False
        first = self.members[self.order.places[0].host]
        self._world.count(Fault.EVERY_TIME)
        first.process.ranks_fail(first, what="ValueError: this batch")
        return True

    def _sicken(self) -> tuple[Fault, int] | None:
        """Something goes wrong with the numbers of this step."""
        sick, self.sick = self.sick, None
        if sick is not None:
            if sick[0] is Fault.GRADIENT and self.step in self._world.odd_steps:
                sick = (Fault.WEIGHTS, sick[1])  # twice at one step, it would be the data's
            self._world.odd_steps.add(self.step)
            self.state ^= 1 + int(self._chance.random() * 2**60)
            corruption = Corruption(attempt=self.attempt, step=self.step)
            self._world.invariants.corruptions.append(corruption)
        return sick

    def _tell(self, sick: tuple[Fault, int] | None) -> None:
        now = self._world.timeline.now
        seconds, self._step_begun_s = now - self._step_begun_s, now
        for ranks in self.members.values():
            ranks.step = self.step
            for rank in ranks.place.ranks:
                done = _done(rank, self.step, seconds, sick)
                ranks.process.unheard.append(done)

    def _keep(self) -> None:
        """Copies in memory: one's own at once, one at the next host in the ring a little later."""
        every = self._world.scenario.config.snapshot_every
        if self.step % every == 0:
            places = self.order.places
            delay_s = self._chance.uniform(0.1, 2.5)
            for place, peer in pairwise((*places, places[0])):
                own = self.members[place.host].process
                for rank in place.ranks:
                    copy = Copy(attempt=self.attempt, rank=rank, step=self.step)
                    own.keep(copy, self.state)
                    self._send_copy(copy, peer.host, delay_s)
        if self.step % CHECKPOINT_EVERY == 0 and self.step < self._world.scenario.last_step:
            state, step = self.state, self.step
            self._world.timeline.after(
                self._chance.uniform(0.5, 4.0), lambda: self._save(step, state)
            )

    def _send_copy(self, copy: Copy, host: str, delay_s: float) -> None:
        process, state = self.members[host].process, self.state

        def arrive() -> None:
            if process.alive:
                process.keep(copy, state)

        self._world.timeline.after(delay_s, arrive)

    def _save(self, step: int, state: int) -> None:
        """The second stage of a checkpoint has ended, if nobody ended it before."""
        if self.broken:
            return
        self._world.disk.save(step, state)
        first = self.members[self.order.places[0].host].process
        first.report(Saved(host=first.name, attempt=self.attempt, step=step))

    def _finish(self) -> None:
        """Training is over: the last checkpoint, and ranks that end well."""
        if self.broken or self.hung is not None:
            return
        self._save(self.step, self.state)
        self._world.invariants.trained = True
        for ranks in list(self.members.values()):
            seconds = self._chance.uniform(0.05, 0.5)
            self._world.timeline.after(seconds, _Lonely(ranks).end_well)


class _Lonely:
    """What happens to a host's ranks later, if they are still there then."""

    def __init__(self, ranks: HostRanks) -> None:
        self._ranks = ranks

    def fail(self) -> None:
        process = self._ranks.process
        process.ranks_fail(self._ranks, what="connection closed by peer", lost_peer=True)

    def end_well(self) -> None:
        ranks = self._ranks
        how = Ended(host=ranks.process.name, attempt=ranks.attempt, well=True)
        ranks.process.ranks_end(ranks, how)


def _done(rank: int, step: int, seconds: float, sick: tuple[Fault, int] | None) -> StepDone:
    """What a rank tells of a step."""
    if sick is None:
        return StepDone(rank=rank, step=step, seconds=seconds, loss=2.0, norm=1.0, own_norm=1.0)
    fault, whose = sick
    if fault is Fault.NAN:
        own = None if rank == whose else 1.0
        return StepDone(rank=rank, step=step, seconds=seconds, loss=None, norm=None, own_norm=own)
    if fault is Fault.GRADIENT:
        own = 1e9 if rank == whose else 1.0
        return StepDone(rank=rank, step=step, seconds=seconds, loss=2.0, norm=1e9, own_norm=own)
    return StepDone(
        rank=rank,
        step=step,
        seconds=seconds,
        loss=2.0,
        norm=1.0,
        own_norm=1.0,
        intact=rank != whose,
    )
