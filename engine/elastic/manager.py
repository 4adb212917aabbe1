"""The global manager: requests come and go, groups of instances begin and end iterations.

It keeps the books and sees to it that everybody goes on; who deserves to run first is a token-level
policy's decision (``adaptive``, say), and which instances compute what a fleet's (``esp``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from engine.elastic.assignment import Assignment
from engine.elastic.groups import Groups
from engine.elastic.iteration import Decision, GroupIteration
from engine.elastic.pools import Pools
from engine.elastic.snapshot import Snapshot, Waiting
from engine.scheduling.iteration import Work
from engine.scheduling.job import Place
from engine.scheduling.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.elastic.assignment import Chunk, Share
    from engine.elastic.fleet_policy import FleetPolicy
    from engine.elastic.information_base import InformationBase
    from engine.scheduling.job import Job
    from engine.scheduling.policy import Policy

_NOBODY: frozenset[int] = frozenset()
_LEAST_OUTPUT = 16  # tokens that a request is expected to give before anything is known


class SharedPrefixes(Protocol):
    """Tokens at the front of jobs whose keys and values some instances have already: never all of
    a job's, since computing the last gives the next."""

    def known(self, job: Job) -> tuple[Share, ...]:
        """Where they lie now, in the order of the text."""
        ...

    def share(self, job: Job) -> tuple[Share, ...]:
        """The job begins: they are kept for it from now on."""
        ...


class Manager:
    """Events in, decisions out; ``now`` is in seconds of a clock that never goes back.

    Every request that fits into the fleet alone ends some day, provided that iterations do and the
    fleet's policy assigns one to whoever is alone.

    Args:
        slots: of each instance's pool.
        max_batch: requests that one instance computes in an iteration.
        begun: iterations that the instances have seen already: numbers go on from there.
    """

    def __init__(
        self,
        fleet: FleetPolicy,
        policy: Policy,
        base: InformationBase,
        *,
        slots: Mapping[int, int],
        max_batch: int,
        prefixes: SharedPrefixes | None = None,
        begun: int = 0,
    ) -> None:
        policy.within(
            Limits(max_batch=max_batch * len(slots), blocks=sum(slots.values()), block_tokens=1)
        )
        self.policy = policy
        self.fleet = fleet
        self.pools = Pools(slots)
        self._base = base
        self._max_batch = max_batch
        self._prefixes = prefixes
        self._jobs: dict[int, Job] = {}
        self._waiting: dict[int, Job] = {}
        self._groups = Groups(self.pools)
        self._flying: dict[int, GroupIteration] = {}
        self._leaving: dict[int, Job] = {}
        self._dropped: list[Job] = []
        self._number = begun
        self._finished = self._given = 0

    def __len__(self) -> int:
        """Requests that are to run, or run."""
        return len(self._jobs)

    @property
    def in_flight(self) -> Mapping[int, GroupIteration]:
        """Iterations that are not over, by their numbers."""
        return self._flying

    def master(self, number: int) -> int | None:
        """Of a request that decodes."""
        return self._groups.master(number)

    def add(self, job: Job, now: float) -> None:
        """A new request."""
        assert job.number not in self._jobs, "numbers are unique"
        assert job.number not in self._leaving, "numbers are unique"
        self._jobs[job.number] = self._waiting[job.number] = job
        self.policy.arrive(job, now)

    def withdraw(self, number: int, now: float) -> None:
        """It is no longer wanted: nothing of one that has ended. What it holds is free at once; if
        it is in flight, when that is over."""
        job = self._jobs.pop(number, None)
        if job is None:
            return
        self.policy.leave(job, now, finished=False)
        self._waiting.pop(number, None)
        self._groups.leave(number)
        if job.in_flight:
            self._leaving[number] = job
        else:
            self._release(job)

    def schedule(self, now: float) -> Decision:
        """What begins now: nothing where all that could is in flight."""
        begun = self._begin_all(now)
        while not begun and not self._flying and self._jobs and self._relieve(now):
            begun = self._begin_all(now)
        dropped, self._dropped = tuple(self._dropped), []
        return Decision(drop=dropped, iterations=tuple(begun))

    def complete(
        self,
        iteration: GroupIteration,
        seconds: float,
        now: float,
        ended: frozenset[int] = _NOBODY,
    ) -> list[Job]:
        """An iteration is over after so many seconds.

        Args:
            ended: requests that are to give no more tokens (a stop word, say); those that have
                given ``max_tokens`` end anyway.

        Returns:
            Those that have finished, and hold nothing any more.
        """
        self._land(iteration)
        for transfer in iteration.transfers:
            self.pools.end_move(transfer)
            self._groups.moved(transfer)
        ran: list[Job] = []
        for (job, _, tokens, gives), keep in zip(iteration.work, iteration.keep, strict=True):
            job.cached += tokens
            if gives:
                job.generated += 1
            if job.number in self._leaving:
                continue
            ran.append(job)
            if not gives:
                self._waiting[job.number] = job
            elif tokens > 1 or self._groups.master(job.number) is None:
                self._groups.join(job, keep[-1][0])
        self._let_go(iteration)
        self._groups.changed(iteration.instances)
        self.policy.ran(ran, seconds, now)
        return self._finish(ran, now, ended)

    def abandon(self, iteration: GroupIteration) -> list[Job]:
        """An iteration came to nothing, since an instance of it is gone: those of its requests that
        have lost no keys and values go on as before it; see :meth:`lose`, which comes first.

        Returns:
            Those that have lost them: they begin anew.
        """
        self._land(iteration)
        torn = {each.number for each in iteration.transfers}
        for number in torn:
            self.pools.release(number)
        lost = [self._jobs[number] for number in torn if number in self._jobs]
        for work, keep in zip(iteration.work, iteration.keep, strict=True):
            job = work.job
            if job.number in self._leaving:
                continue
            if self.pools.held(job.number):
                self.pools.give_back(job.number, keep)
                self._settle(job)
            elif job.number not in torn:
                lost.append(job)
        for job in lost:
            self._forget(job)
        self._let_go(iteration)
        self._groups.changed(iteration.instances)
        return lost

    def lose(self, instance: int) -> tuple[GroupIteration, ...]:
        """An instance is gone, and what it held: whoever had tokens there begins anew.

        Returns:
            Iterations in flight that will come to nothing: :meth:`abandon` them when the other
            instances have been freed from them.
        """
        hit = self.pools.lose(instance)
        for job in self._groups.lose(instance):
            if not job.in_flight:
                self._waiting[job.number] = job
        for number in hit:
            known = self._jobs.get(number)
            if known is not None and not known.in_flight:
                self._dropped.append(known)
                self._forget(known)
        return tuple(each for each in self._flying.values() if instance in each.instances)

    def gain(self, instance: int, slots: int) -> None:
        """A new instance, or one that begins anew."""
        self.pools.gain(instance, slots)
        self._groups.gain(instance)

    # -- deciding ---

    def _begin_all(self, now: float) -> list[GroupIteration]:
        if not self._groups.any_idle():
            return []
        snapshot = self.snapshot(now)
        begun = [self._begin(each, now) for each in self.fleet.decide(snapshot)]
        held_back = self.fleet.holds(snapshot)
        idle = [each for each in self._groups.idle_groups() if held_back.isdisjoint(each)]
        begun += [self._decode(each, now) for each in idle]
        return [each for each in begun if each is not None]

    def snapshot(self, now: float) -> Snapshot:
        """The fleet as it is."""
        self.policy.order(now)  # ranks are as of now
        staying = [job for job in self._waiting.values() if not job.in_flight]
        waiting = sorted(staying, key=self.policy.rank)
        return Snapshot(
            now=now,
            waiting=tuple(self._told(job) for job in waiting),
            instances=self._groups.instances(now),
            max_batch=self._max_batch,
            decoding=self._groups.decoding,
        )

    def _told(self, job: Job) -> Waiting:
        held = tuple(self.pools.held(job.number).items())
        begun, cached = bool(held), job.cached
        if not begun and self._prefixes is not None:
            held = self._prefixes.known(job)
            if all(self.pools.free.get(each, 0) >= tokens for each, tokens in held):
                cached = sum(tokens for _, tokens in held)
            else:
                held = ()
        return Waiting(
            number=job.number,
            cached=cached,
            due=job.known - cached,
            held=held,
            arrived_s=job.arrived_s,
            generated=job.generated,
            room=min(job.prompt_tokens + job.max_tokens, job.known + self._expected_output()),
            begun=begun or not held,
        )

    def _expected_output(self) -> int:
        return max(_LEAST_OUTPUT, self._given // self._finished if self._finished else 0)

    def _begin(self, assignment: Assignment, now: float) -> GroupIteration | None:
        group = assignment.instances
        self._groups.check_idle(group)
        for number in assignment.drop:
            self._drop(self._waiting[number])
        assignment = self._moving(assignment)
        for number, master in assignment.masters:
            self._groups.join(self._jobs[number], master)
        work = [self._chunk(each, group) for each in assignment.chunks]
        keep = [each.keep for each in assignment.chunks]
        return self._fly(assignment, work, keep, now)

    def _moving(self, assignment: Assignment) -> Assignment:
        """With the transfers that there is room for, begun: others are left out, and what they were
        to move is read where it lies."""
        begun = []
        for transfer in assignment.transfers:
            if transfer.tokens > self.pools.free[transfer.target]:
                continue
            self.pools.begin_move(transfer)
            self._groups.moved(transfer)
            self._jobs[transfer.number].in_flight = True
            begun.append(transfer)
        return replace(assignment, transfers=tuple(begun))

    def _decode(self, group: tuple[int, ...], now: float) -> GroupIteration | None:
        """Without any prefill."""
        return self._fly(Assignment(instances=group), [], [], now)

    def _chunk(self, chunk: Chunk, group: tuple[int, ...]) -> Work:
        job = self._waiting.pop(chunk.number)
        if not self.pools.held(job.number):
            job.cached = job.shared = 0 if chunk.fresh else self._share(job, group)
        assert all(each in group for each in self.pools.held(job.number)), "holders take part"
        assert sum(tokens for _, tokens in chunk.keep) == chunk.tokens, "all that is computed stays"
        assert all(each in group for each, _ in chunk.keep), "it is kept within the group"
        self.pools.take(job.number, chunk.keep)
        return self._work(job, chunk.tokens)

    def _share(self, job: Job, group: tuple[int, ...]) -> int:
        """What others have computed of its beginning, where the group has it and there is room: so
        many tokens."""
        if self._prefixes is None:
            return 0
        free, known = self.pools.free, self._prefixes.known(job)
        if not all(each in group and free[each] >= tokens for each, tokens in known):
            return 0
        shared = self._prefixes.share(job)
        self.pools.take(job.number, shared)
        return sum(tokens for _, tokens in shared)

    def _work(self, job: Job, tokens: int) -> Work:
        assert 0 < tokens <= job.due, "what is due"
        job.in_flight, job.place = True, Place.DEVICE
        return Work(job, job.cached, tokens, tokens == job.due)

    def _fly(
        self,
        assignment: Assignment,
        work: list[Work],
        keep: list[tuple[Share, ...]],
        now: float,
    ) -> GroupIteration | None:
        """With the decodes that go along; None where nothing is to be computed."""
        prefills = [(each.tokens, each.first) for each in work]
        context = 0
        if assignment.decodes:
            for job, master in self._decodes(assignment.instances, len(work)):
                share = ((master, 1),)
                self.pools.take(job.number, share)
                work.append(self._work(job, 1))
                keep.append(share)
                context += job.known
        if not work and not assignment.transfers:
            return None
        self._number += 1
        batch = len(work) - len(prefills)
        moved = sum(each.tokens for each in assignment.transfers)
        seconds = self._base.iteration_s(assignment.dop, prefills, batch, context)
        iteration = GroupIteration(
            number=self._number,
            instances=assignment.instances,
            work=tuple(work),
            keep=tuple(keep),
            transfers=assignment.transfers,
            predicted_s=seconds + (self._base.transfer_s(moved) if moved else 0.0),
        )
        self._flying[iteration.number] = iteration
        self._groups.fly(iteration, now)
        return iteration

    def _decodes(self, group: tuple[int, ...], prefills: int) -> Iterable[tuple[Job, int]]:
        """Those of the group that may go along, and have room for their next token."""
        found: list[tuple[Job, int]] = []
        for master in group:
            jobs = self._groups.decodes(master, group)
            most = max(0, self._max_batch - prefills)
            if len(jobs) > most:
                jobs = sorted(jobs, key=self.policy.rank)[:most]
            if len(jobs) > self.pools.free[master]:
                jobs = self._with_room(jobs, master)
            found += [(job, master) for job in jobs]
        return [(job, master) for job, master in found if self._groups.master(job.number) == master]

    def _with_room(self, jobs: Sequence[Job], master: int) -> list[Job]:
        """A slot for each, from those that rank lowest where there are too few."""
        left = sorted(jobs, key=self.policy.rank)
        while len(left) > self.pools.free[master]:
            victim = self._lowest(master)
            if victim is None:
                return left[: self.pools.free[master]]
            self._drop(victim)
            if victim in left:
                left.remove(victim)
        return left

    def _lowest(self, instance: int) -> Job | None:
        """Of those that hold slots there and are not in flight."""
        jobs = (self._jobs.get(number) for number in self.pools.holders())
        idle = [
            job
            for job in jobs
            if job and not job.in_flight and instance in self.pools.held(job.number)
        ]
        return max(idle, key=self.policy.rank) if len(idle) > 1 else None

    def _relieve(self, now: float) -> bool:
        """Nothing can begin: whoever ranks lowest gives up what it holds; False: nobody does."""
        self.policy.order(now)
        holders = [
            job for number in self.pools.holders() if (job := self._jobs.get(number)) is not None
        ]
        if not holders:
            return False
        self._drop(max(holders, key=self.policy.rank))
        return True

    # -- keeping books ---

    def _land(self, iteration: GroupIteration) -> None:
        del self._flying[iteration.number]
        self._groups.land(iteration)
        for job in self._involved(iteration):
            job.in_flight = False

    def _let_go(self, iteration: GroupIteration) -> None:
        """Those that were withdrawn while it was in flight."""
        for job in self._involved(iteration):
            if self._leaving.pop(job.number, None):
                self._release(job)

    def _involved(self, iteration: GroupIteration) -> Iterable[Job]:
        """Those that it computes, and those that it only moves."""
        yield from (work.job for work in iteration.work)
        for number in {each.number for each in iteration.transfers}:
            job = self._jobs.get(number) or self._leaving.get(number)
            if job is not None:
                yield job

    def _settle(self, job: Job) -> None:
        """It is where it was before an iteration that came to nothing."""
        if self._groups.master(job.number) is None:
            if not self.pools.held(job.number):
                job.place, job.cached = Place.NOWHERE, 0
            self._waiting[job.number] = job

    def _drop(self, job: Job) -> None:
        self._dropped.append(job)
        self.pools.release(job.number)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        """It has no keys and values any more, and waits."""
        self._groups.leave(job.number)
        job.place, job.cached = Place.NOWHERE, 0
        self._waiting[job.number] = job

    def _release(self, job: Job) -> None:
        self.pools.release(job.number)
        job.place = Place.NOWHERE

    def _finish(self, jobs: Sequence[Job], now: float, ended: frozenset[int]) -> list[Job]:
        finished = [job for job in jobs if job.generated >= job.max_tokens or job.number in ended]
        for job in finished:
            del self._jobs[job.number]
            self._waiting.pop(job.number, None)
            self._groups.leave(job.number)
            self._release(job)
            self.policy.leave(job, now, finished=True)
            self._finished += 1
            self._given += job.generated
        return finished
