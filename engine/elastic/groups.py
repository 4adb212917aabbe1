"""Who is whose master, which instances must decode together, and which are at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.elastic.snapshot import Decoding, Instance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.elastic.assignment import Transfer
    from engine.elastic.iteration import GroupIteration
    from engine.elastic.pools import Pools
    from engine.scheduling.job import Job


@dataclass(slots=True, eq=False)
class _Replica:
    """An instance: the requests whose master it is, what they weigh, and whether it works.

    Attributes:
        spread: those of them that other instances hold tokens of, too.
        weight: their tokens, and the sum of 1 / these; None: to be counted anew.
    """

    decodes: dict[int, Job]
    spread: set[int]
    weight: tuple[int, float] | None = None
    flying: bool = False
    ends_s: float = 0.0


class Groups:
    """Attributes are kept by the manager's events.

    Args:
        pools: where tokens lie.
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._replicas = {number: _Replica({}, set()) for number in sorted(pools.slots)}
        self._masters: dict[int, int] = {}

    def master(self, number: int) -> int | None:
        """Of a request that decodes."""
        return self._masters.get(number)

    def any_idle(self) -> bool:
        """Whether an instance is not at work."""
        return any(not each.flying for each in self._replicas.values())

    def check_idle(self, group: Sequence[int]) -> None:
        """Of an assignment."""
        assert list(group) == sorted(set(group)), "ascending, each once"
        assert all(not self._replicas[each].flying for each in group), "they are idle"

    def join(self, job: Job, master: int) -> None:
        """It decodes from now on, with this master."""
        self.leave(job.number)
        replica = self._replicas[master]
        replica.decodes[job.number] = job
        replica.weight = None
        self._masters[job.number] = master
        if self._pools.held(job.number).keys() - {master}:
            replica.spread.add(job.number)

    def leave(self, number: int) -> None:
        """It does not decode any more, if it did."""
        master = self._masters.pop(number, None)
        if master is None or master not in self._replicas:
            return
        replica = self._replicas[master]
        replica.decodes.pop(number, None)
        replica.spread.discard(number)
        replica.weight = None

    def moved(self, transfer: Transfer) -> None:
        """Tokens of a request have passed to another instance."""
        master = self._masters.get(transfer.number)
        if master is not None:
            self.join(self._replicas[master].decodes[transfer.number], master)

    def decodes(self, master: int, group: Sequence[int]) -> list[Job]:
        """Requests of a master that are wholly held within a group."""
        replica = self._replicas[master]
        jobs = replica.decodes
        if not replica.spread:
            return list(jobs.values())
        within = set(group)
        outside = {each for each in replica.spread if self._pools.held(each).keys() - within}
        return [job for number, job in jobs.items() if number not in outside]

    def decoding(self, master: int) -> tuple[Decoding, ...]:
        """Requests of a master that are not in flight, as a policy sees them."""
        return tuple(
            Decoding(number, job.known, tuple(self._pools.held(number).items()))
            for number, job in self._replicas[master].decodes.items()
            if not job.in_flight
        )

    def idle_groups(self) -> Iterable[tuple[int, ...]]:
        """Of idle instances with decodes: those that are bound together, if all are idle."""
        seen: set[int] = set()
        for number, replica in self._replicas.items():
            if number in seen or replica.flying:
                continue
            group = self._bound_together(number)
            seen |= group
            members = [self._replicas[each] for each in group]
            if any(each.decodes for each in members) and not any(each.flying for each in members):
                yield tuple(sorted(group))

    def instances(self, now: float) -> tuple[Instance, ...]:
        """As a policy sees them."""
        return tuple(self._told(number, each, now) for number, each in self._replicas.items())

    def fly(self, iteration: GroupIteration, now: float) -> None:
        """It begins."""
        for each in iteration.instances:
            self._replicas[each].flying = True
            self._replicas[each].ends_s = now + iteration.predicted_s

    def land(self, iteration: GroupIteration) -> None:
        """It is over."""
        for each in iteration.instances:
            if each in self._replicas:
                self._replicas[each].flying = False

    def changed(self, instances: Iterable[int]) -> None:
        """Their requests have more tokens now."""
        for each in instances:
            if each in self._replicas:
                self._replicas[each].weight = None

    def lose(self, instance: int) -> list[Job]:
        """It is gone: the requests whose master it was have none now."""
        replica = self._replicas.pop(instance)
        for number in replica.decodes:
            del self._masters[number]
        return list(replica.decodes.values())

    def gain(self, instance: int) -> None:
        """It is there, and idle."""
        self._replicas[instance] = _Replica({}, set())
        self._replicas = dict(sorted(self._replicas.items()))

    def _bound(self, number: int) -> frozenset[int]:
        """Instances that hold tokens of a master's requests, itself among them."""
        bound = {number}
        for each in self._replicas[number].spread:
            bound |= self._pools.held(each).keys()
        return frozenset(bound)

    def _bound_together(self, number: int) -> set[int]:
        """All that are bound to it, or to those that are; and those that are bound to it."""
        bounds = {each: self._bound(each) for each in self._replicas}
        group, grown = {number}, True
        while grown:
            more = {each for each, bound in bounds.items() if not group.isdisjoint(bound)}
            more = group.union(more, *(bounds[each] for each in more))
            grown, group = more != group, more
        return group

    def _told(self, number: int, replica: _Replica, now: float) -> Instance:
        if replica.weight is None:
            known = [job.known for job in replica.decodes.values()]
            replica.weight = sum(known), sum(1 / each for each in known)
        context, urgency = replica.weight
        return Instance(
            number=number,
            free=self._pools.free[number],
            slots=self._pools.slots[number],
            idle=not replica.flying,
            ends_s=replica.ends_s if replica.flying else now,
            decodes=len(replica.decodes),
            context=context,
            urgency=urgency,
            bound=self._bound(number) if replica.spread else frozenset((number,)),
        )
