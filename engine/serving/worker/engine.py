"""What is computed next, and what becomes of it: the scheduler and the cache, kept in step."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from engine.scheduling.scheduler import Scheduler
from engine.serving.worker.life import Lives
from engine.serving.worker.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from collectors.recorder import Recorder
    from engine.scheduling.iteration import Iteration, Work
    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.policy import Policy
    from engine.serving.paged.cache import PagedCache
    from engine.serving.request import GenerationRequest, Token
    from engine.serving.sampling.parameters import Candidate
    from engine.serving.wire import Load
    from engine.serving.worker.tick import Outcome, Tick


class Engine:
    """Ticks in; tokens and the next iteration out. Equal ticks give equal decisions.

    Whoever drives it does what iterations say, one after the other, and tells of their outcomes in
    this order: of each before the next tick, or later where they pass through a pipeline. Of moves
    it tells when they have ended, where the iteration did not wait for them.
    """

    def __init__(
        self, policy: Policy, limits: Limits, cache: PagedCache, recorder: Recorder
    ) -> None:
        self.cache = cache
        self._scheduler = Scheduler(policy, limits, self)
        self._sequences: dict[int, Sequence] = {}
        self._in_flight: deque[Iteration] = deque()
        self._begun: set[int] = set()
        self._moving: dict[int, Job] = {}
        self._leaving: dict[int, Job] = {}
        self._lives = Lives(recorder)

    @property
    def iterations(self) -> int:
        """Decided so far."""
        return self._lives.iterations

    @property
    def in_flight(self) -> int:
        """Iterations whose outcome has not been told."""
        return len(self._in_flight)

    @property
    def unproven(self) -> tuple[int, ...]:
        """Those in flight that were given no token here: if this ends badly, one is to blame."""
        return tuple(
            each.job.number
            for iteration in self._in_flight
            for each in iteration.work
            if not each.job.generated
        )

    @property
    def moves(self) -> bool:
        """Whether anything is on its way to the other side."""
        return bool(self._moving)

    @property
    def policy(self) -> str:
        """Its name."""
        return self._scheduler.policy.name

    def step(self, tick: Tick) -> tuple[list[Token], Iteration]:
        """Take in what has happened; what iterations gave that are over, and the next one."""
        now = tick.now
        tokens = [token for outcome in tick.outcomes for token in self._complete(outcome, now)]
        self.cache.collect(tick.moved)
        self._arrive(tick.moved, now)
        for request in tick.joined:
            self._join(request, now)
        for number in tick.withdrawn:
            if sequence := self._sequences.get(number):
                self._lives.cancelled(sequence)
                self._withdraw(number, now)
        self._release()
        iteration = self._schedule(now)
        if iteration.work:
            self._in_flight.append(iteration)
        return tokens, iteration

    def texts(self, work: Iterable[Work]) -> Mapping[int, list[int]]:
        """All tokens so far of each request that works."""
        return {each.job.number: self._sequences[each.job.number].text for each in work}

    def candidates(self, work: Iterable[Work]) -> list[Candidate]:
        """Those that are given a token, in the order of work."""
        return [self._sequences[each.job.number].candidate for each in work if each.gives]

    def load(self) -> Load:
        """How busy it is."""
        pages, limits = self._scheduler.pages, self._scheduler.limits
        residence = self._scheduler.residence
        return self._lives.load(
            live=len(self._sequences),
            swapped=len(residence.on_host) + len(residence.moving),
            kv_usage=1 - pages.free / limits.blocks,
            host_usage=1 - pages.host_free / limits.host_blocks if limits.host_blocks else 0.0,
        )

    def known(self, job: Job) -> int:
        """See :class:`~engine.scheduling.prefixes.Prefixes`."""
        sequence = self._sequences[job.number]
        return self.cache.known(sequence.text, salt=sequence.salt)

    def share(self, job: Job) -> int:
        """See :class:`~engine.scheduling.prefixes.Prefixes`."""
        sequence, number = self._sequences[job.number], job.number
        self.cache.free(number)  # where it was dropped by this very decision
        self._begun.add(number)
        longest = job.prompt_tokens + job.max_tokens
        shared = self.cache.begin(number, sequence.text, expected=longest, salt=sequence.salt)
        self._lives.began(job, shared)
        return shared

    def _join(self, request: GenerationRequest, now: float) -> None:
        sequence = Sequence.of(request, now)
        self._sequences[request.number] = sequence
        self._lives.arrived(request)
        self._scheduler.add(sequence.job, now)

    def _withdraw(self, number: int, now: float) -> None:
        sequence = self._sequences.pop(number)
        self._scheduler.withdraw(number, now)
        self._leaving[number] = sequence.job

    def _schedule(self, now: float) -> Iteration:
        self._begun.clear()
        iteration = self._scheduler.schedule(now)
        self._lives.scheduled(iteration, self._scheduler.residence)
        for job in iteration.drop:
            if job.number not in self._begun:
                self.cache.free(job.number)
        for job in (*iteration.offload, *iteration.upload):
            self._moving[job.number] = job
        if iteration.waits:  # whoever computes waits for the moves first
            self._arrive([*self._moving], now)
        return iteration

    def _arrive(self, numbers: Iterable[int], now: float) -> None:
        for number in numbers:
            job = self._moving.pop(number)
            self._scheduler.moved(job, now)
            self._lives.moved(job)

    def _complete(self, outcome: Outcome, now: float) -> list[Token]:
        iteration = self._in_flight.popleft()
        tokens: list[Token] = []
        chosen = iter(outcome.chosen)
        for work in iteration.work:
            failed = work.job.number in outcome.failed
            choice = next(chosen) if work.gives and not failed else None
            sequence = self._sequences.get(work.job.number)
            if sequence is None:
                continue  # withdrawn meanwhile
            if failed:
                tokens.append(sequence.failed())
            elif choice is not None:
                computed = len(sequence.text)
                tokens.append(sequence.append(choice))
                if not tokens[-1].failed:
                    self.cache.publish(work.job.number, sequence.text, computed)
        for token in tokens:
            self._lives.gave(self._sequences[token.number], token)
        ended = frozenset(token.number for token in tokens if token.finish)
        self._scheduler.complete(iteration, outcome.seconds, now, ended)
        for number in ended:
            self._leaving[number] = self._sequences.pop(number).job
        return tokens

    def _release(self) -> None:
        """Free the blocks of those that left, once nothing of them moves or is computed."""
        for number, job in list(self._leaving.items()):
            if number not in self._moving and not job.in_flight:
                del self._leaving[number]
                self.cache.free(number)
