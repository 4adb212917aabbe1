"""What a fleet computes next, and what becomes of it: manager and texts, kept in step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.serving.fleet.flight import Flight
from engine.serving.fleet.lives import FleetLives
from engine.serving.instances.step import Choice, Part, Step
from engine.serving.worker.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from collectors.recorder import Recorder
    from engine.elastic.assignment import Share
    from engine.elastic.iteration import GroupIteration
    from engine.elastic.manager import Manager
    from engine.scheduling.iteration import Work
    from engine.scheduling.job import Job
    from engine.serving.fleet.texts import Texts
    from engine.serving.fleet.tick import Tick
    from engine.serving.instances.step import Done, Run
    from engine.serving.request import GenerationRequest, Token
    from engine.serving.wire import Load


class FleetEngine:
    """Ticks in; tokens and steps out. Equal ticks give equal decisions.

    Whoever drives it tells each instance of a step's group the step, and of every account.

    Args:
        make_manager: given what is known of prefixes.
        texts: of instances that are all there.
    """

    def __init__(
        self,
        make_manager: Callable[[FleetEngine], Manager],
        texts: Texts,
        recorder: Recorder,
    ) -> None:
        self.manager = make_manager(self)
        self._texts = texts
        self._sequences: dict[int, Sequence] = {}
        self._flights: dict[int, Flight] = {}
        self._leaving: dict[int, Job] = {}
        self._begun: set[int] = set()
        self._lives = FleetLives(recorder)
        for instance, slots in self.manager.pools.slots.items():
            self._lives.gained(instance, slots)

    @property
    def flights(self) -> Mapping[int, Flight]:
        """Steps that instances are at."""
        return self._flights

    @property
    def unproven(self) -> tuple[int, ...]:
        """Those in flight that were given no token here: if this ends badly, one is to blame."""
        return tuple(
            each.job.number
            for flight in self._flights.values()
            for each in flight.iteration.work
            if not each.job.generated
        )

    def step(self, tick: Tick) -> tuple[list[Token], list[Step]]:
        """Take in what has happened; what came of it, and what is computed next."""
        now = tick.now
        for instance in tick.lost:
            self._lose(instance, now)
        tokens = [token for done in tick.done for token in self._take(done.number, done, now)]
        for instance, slots in tick.gained:
            self._texts.gain(instance, slots)
            self.manager.gain(instance, slots)
            self._lives.gained(instance, slots)
        for request in tick.joined:
            self._join(request, now)
        for number in tick.withdrawn:
            if sequence := self._sequences.pop(number, None):
                self._lives.cancelled(sequence)
                self.manager.withdraw(number, now)
                self._leaving[number] = sequence.job
        self._release()
        return tokens, self._decide(now)

    def load(self) -> Load:
        """How busy it is."""
        pools = self.manager.pools
        slots = sum(pools.slots.values())
        used = 1 - sum(pools.free.values()) / slots if slots else 1.0
        return self._lives.load(live=len(self._sequences), swapped=0, kv_usage=used, host_usage=0.0)

    def leftovers(self) -> str:
        """What is held when there is no request: "": nothing but beginnings that are known."""
        self._texts.forget_prefixes()
        pools = self.manager.pools
        held = {
            "requests": len(self._sequences) + len(self.manager),
            "steps": len(self._flights),
            "leaving": len(self._leaving),
            "counted slots": sum(pools.slots.values()) - sum(pools.free.values()),
            "slots": sum(self._texts.used(each, count) for each, count in pools.slots.items()),
        }
        return ", ".join(f"{count} {what}" for what, count in held.items() if count)

    def known(self, job: Job) -> tuple[Share, ...]:
        """See :class:`~engine.elastic.manager.SharedPrefixes`."""
        sequence = self._sequences[job.number]
        return self._texts.known(job.number, sequence.text, sequence.salt)

    def share(self, job: Job) -> tuple[Share, ...]:
        """See :class:`~engine.elastic.manager.SharedPrefixes`."""
        sequence = self._sequences[job.number]
        self._texts.free(job.number)  # where it was dropped by this very decision
        self._begun.add(job.number)
        return self._texts.share(job.number, sequence.text, sequence.salt)

    # -- what has happened ---

    def _join(self, request: GenerationRequest, now: float) -> None:
        sequence = Sequence.of(request, now)
        self._sequences[request.number] = sequence
        self._lives.arrived(request)
        self.manager.add(sequence.job, now)

    def _lose(self, instance: int, now: float) -> None:
        self._lives.lost(instance)
        hit = self.manager.lose(instance)
        self._texts.lose(instance)
        for flight in self._flights.values():
            flight.lose(instance)
        for iteration in hit:
            flight = self._flights[iteration.number]
            flight.torn = True
            flight.missing.discard(instance)
            self._end(flight, now)

    def _take(self, number: int, done: Done, now: float) -> list[Token]:
        flight = self._flights.get(number)
        if flight is None:
            return []
        flight.take(done)
        return self._end(flight, now)

    def _end(self, flight: Flight, now: float) -> list[Token]:
        """When all that live have given their accounts."""
        if flight.missing:
            return []
        del self._flights[flight.iteration.number]
        self._texts.leave(flight.left_behind)
        self._lives.ended(flight, self._used(flight), now)
        if flight.torn:
            return self._abandon(flight)
        return self._complete(flight, now)

    def _used(self, flight: Flight) -> dict[int, int]:
        pools = self.manager.pools
        live = [each for each in flight.iteration.instances if each in pools.slots]
        return {each: pools.slots[each] - pools.free[each] for each in live}

    def _abandon(self, flight: Flight) -> list[Token]:
        for keep in flight.keep:
            self._texts.give_back(keep)
        for job in self.manager.abandon(flight.iteration):
            self._texts.free(job.number)
            self._lives.dropped(job)
        return []

    def _complete(self, flight: Flight, now: float) -> list[Token]:
        chosen, failed = flight.chosen, flight.failed
        tokens: list[Token] = []
        for work, keep in zip(flight.iteration.work, flight.keep, strict=True):
            number = work.job.number
            self._texts.append(number, keep)
            sequence = self._sequences.get(number)
            if sequence is None or not work.gives:
                continue  # withdrawn meanwhile, or nothing came out
            if number in failed:
                tokens.append(sequence.failed())
                continue
            computed = len(sequence.text)
            tokens.append(sequence.append(chosen[number]))
            if not tokens[-1].failed and work.tokens > 1:
                self._texts.publish(number, sequence.text, computed, sequence.salt)
        for token in tokens:
            self._lives.gave(self._sequences[token.number], token)
        ended = frozenset(token.number for token in tokens if token.finish)
        self.manager.complete(flight.iteration, flight.seconds, now, ended)
        for number in ended:
            self._leaving[number] = self._sequences.pop(number).job
        return tokens

    def _release(self) -> None:
        """Free the slots of those that left, once nothing of them is computed."""
        for number, job in list(self._leaving.items()):
            if not job.in_flight:
                del self._leaving[number]
                self._texts.free(number)
                self._lives.left(number)

    # -- what is next ---

    def _decide(self, now: float) -> list[Step]:
        self._begun.clear()
        decision = self.manager.schedule(now)
        for job in decision.drop:
            self._lives.dropped(job)
            if job.number not in self._begun:
                self._texts.free(job.number)
        return [self._begin(iteration, now) for iteration in decision.iterations]

    def _begin(self, iteration: GroupIteration, now: float) -> Step:
        copies, left_behind = [], []
        for move in iteration.transfers:
            made, left = self._texts.transfer(move)
            copies += made
            left_behind += left
        keep = [
            self._keep(work, shares)
            for work, shares in zip(iteration.work, iteration.keep, strict=True)
        ]
        step = Step(
            number=iteration.number,
            instances=iteration.instances,
            parts=tuple(
                self._part(work, runs, shares)
                for work, runs, shares in zip(iteration.work, keep, iteration.keep, strict=True)
            ),
            copies=tuple(copies),
        )
        missing = set(iteration.instances)
        flight = Flight(iteration, step, keep, left_behind, now, missing)
        self._flights[iteration.number] = flight
        self._lives.flies(iteration)
        return step

    def _keep(self, work: Work, shares: tuple[Share, ...]) -> tuple[Run, ...]:
        job = work.job
        left = job.prompt_tokens + job.max_tokens - work.first - work.tokens
        return self._texts.keep(job.number, shares, work.first, expected=left)

    def _part(self, work: Work, keep: tuple[Run, ...], shares: tuple[Share, ...]) -> Part:
        sequence = self._sequences[work.job.number]
        decodes = work.tokens == 1 and work.job.decodes
        return Part(
            number=work.job.number,
            tokens=tuple(sequence.text[work.first : work.first + work.tokens]),
            first=work.first,
            cached=self._texts.runs(work.job.number),
            keep=keep,
            master=shares[0][0] if decodes else None,
            choice=_choice(sequence) if work.gives else None,
        )


def _choice(sequence: Sequence) -> Choice:
    """With the text only where the choice depends on it."""
    parameters, place = sequence.request.parameters, len(sequence.output)
    if not parameters.penalizes:
        return Choice(parameters=parameters, place=place)
    return Choice(
        parameters=parameters,
        place=place,
        prompt=sequence.request.prompt,
        output=tuple(sequence.output),
    )
