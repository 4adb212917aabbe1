"""A scheduler under a simulated clock: requests arrive, iterations take what they cost.

The order of events is a live engine's: when an iteration ends, its tokens are counted, then moves
that have ended and requests that have arrived meanwhile are told, and the next is decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.scheduling.job import Job
from engine.simulation.serve.life import Life, Outcome
from engine.simulation.serve.link import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.profiles.latency import Latency
    from engine.scheduling.iteration import Iteration, Work
    from engine.scheduling.scheduler import Scheduler
    from engine.simulation.serve.request import Request, Workload

_NEVER = float("inf")


class Simulator:
    """One engine that serves one workload once: all of it (:meth:`run`), or as it is offered and
    for as long as it is told (:meth:`offer`, :meth:`advance`).

    Each request fits alone (:meth:`~engine.scheduling.limits.Limits.fits`). No scheduler sees how
    long its output is: all are told what memory allows.

    Args:
        bytes_per_token: of keys and values, which the link to the host moves.
        deadline_s: the latest end; what is not done then stays unfinished.
        fast: do not ask for decisions that would be the same again (:meth:`Scheduler.steady`);
            whether or not, the outcome is the same.
        tokens: told of every iteration that gave tokens: when it ended, and the numbers of the
            requests that have one more, in the order of arrival from 0.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        latency: Latency,
        workload: Workload,
        *,
        bytes_per_token: int,
        link_bytes_per_s: float,
        deadline_s: float = _NEVER,
        fast: bool = True,
        tokens: Callable[[float, Sequence[int]], None] | None = None,
    ) -> None:
        self._most = scheduler.limits.blocks * scheduler.limits.block_tokens
        self._scheduler = scheduler
        self._latency = latency
        self._lives: list[Life] = []
        self._jobs: list[Job] = []
        self._arrivals = [_NEVER]
        self._offloads = Stream(link_bytes_per_s, bytes_per_token)
        self._uploads = Stream(link_bytes_per_s, bytes_per_token)
        self._deadline_s = deadline_s
        self._fast = fast
        self._tokens = tokens
        self._now = 0.0
        self._until_s = _NEVER
        self._arrived = 0
        self._unfinished = 0
        self._iterations = 0
        self._busy_s = 0.0
        self._waited_s = 0.0
        for request in workload.requests:
            self.offer(request)

    @property
    def unfinished(self) -> int:
        """Requests that are not done."""
        return self._unfinished

    def run(self) -> Outcome:
        """Until all requests are done, or the deadline."""
        self.advance(_NEVER)
        return self.outcome()

    def offer(self, request: Request) -> Life:
        """One more request, which arrives after all that are known, and not before the time to
        which the engine has been advanced."""
        number, life = len(self._lives), Life(request=request)
        self._lives.append(life)
        self._jobs.append(
            Job(
                number=number,
                arrived_s=request.arrival_s,
                prompt_tokens=request.prompt_tokens,
                max_tokens=self._most - request.prompt_tokens,
            )
        )
        self._arrivals[-1:] = (request.arrival_s, _NEVER)
        self._unfinished += 1
        return life

    def advance(self, until_s: float) -> None:
        """Compute all iterations that begin before this time; what is known of one that ends later
        is known already."""
        self._until_s = until_s
        while self._unfinished and self._now < until_s:
            self._tell()
            iteration = self._scheduler.schedule(self._now)
            starts_s = self._move(iteration)
            going_on = self._sleep() if iteration.idle else self._work(iteration, starts_s)
            if not going_on:
                self._now = self._deadline_s
                break

    def outcome(self) -> Outcome:
        """So far."""
        return Outcome(
            policy=self._scheduler.policy.name,
            lives=self._lives,
            end_s=self._now,
            iterations=self._iterations,
            busy_s=self._busy_s,
            waited_s=self._waited_s,
            swapped_bytes=self._offloads.bytes_moved + self._uploads.bytes_moved,
        )

    def _tell(self) -> None:
        """The scheduler, of what has happened since the last decision."""
        self._tell_moved(self._now)
        while self._arrivals[self._arrived] <= self._now:
            self._scheduler.add(self._jobs[self._arrived], self._now)
            self._arrived += 1

    def _tell_moved(self, now: float) -> None:
        for stream in (self._offloads, self._uploads):
            for job in stream.done(now):
                self._scheduler.moved(job, now)

    def _move(self, iteration: Iteration) -> float:
        """Begin what is decided to move. When the work may begin."""
        for job in iteration.drop:
            life = self._lives[job.number]
            if job.generated:
                life.computed = job.known - 1
        if not (iteration.offload or iteration.upload):
            return self._now
        self._offloads.begin(iteration.offload, self._now)
        if not iteration.waits:
            self._uploads.begin(iteration.upload, self._now)
            return self._now
        room_s = self._offloads.free_s if iteration.offload else self._now
        self._uploads.begin(iteration.upload, room_s)
        starts_s = max(room_s, self._uploads.free_s if iteration.upload else self._now)
        self._tell_moved(starts_s)
        return starts_s

    def _sleep(self) -> bool:
        """Until something happens; False: not before the deadline."""
        happens_s = min(self._arrivals[self._arrived], self._offloads.next_s, self._uploads.next_s)
        assert happens_s < _NEVER, "whatever fits alone runs some day"
        self._now = happens_s
        return happens_s <= self._deadline_s

    def _work(self, iteration: Iteration, starts_s: float) -> bool:
        """An iteration, and those after it that are surely the same; False: the deadline is met
        before it ends."""
        work = iteration.work
        prefills, batch, context = _load(work)
        first_s = self._latency.iteration_s(prefills, batch, context)
        if starts_s + first_s > self._deadline_s:
            return False
        self._waited_s += starts_s - self._now
        ends = [starts_s + first_s]
        seconds = [first_s]
        if self._fast and not prefills:
            self._repeat(iteration, context, ends, seconds)
        for each in seconds:  # one by one, as without repetition: sums are the same to the bit
            self._busy_s += each
        self._now = ends[-1]
        ended = self._count(work, ends)
        self._scheduler.complete_many(iteration, seconds, self._now, ended)
        return True

    def _repeat(
        self, iteration: Iteration, context: int, ends: list[float], seconds: list[float]
    ) -> None:
        """As often as the decision stays, and nobody ends or arrives: more ends and seconds."""
        left = self._left(iteration.work) - 1
        times, until_s = self._scheduler.steady(iteration, self._now, left)
        batch, arrival_s = len(iteration.work), min(self._arrivals[self._arrived], self._until_s)
        decode_s, deadline_s, end = self._latency.decode_s, self._deadline_s, ends[0]
        while times > 0 and end < until_s and end < arrival_s:
            context += batch
            next_s = decode_s(batch, context)
            if end + next_s > deadline_s:
                return
            end += next_s
            ends.append(end)
            seconds.append(next_s)
            times -= 1

    def _left(self, work: Sequence[Work]) -> int:
        """Tokens until one of them ends."""
        lives = self._lives
        return min(lives[job.number].request.output_tokens - job.generated for job, *_ in work)

    def _count(self, work: Sequence[Work], ends: list[float]) -> frozenset[int]:
        """What these iterations gave to each; the numbers of those that have all now."""
        ended = []
        before, times = self._iterations - 1, len(ends)
        self._iterations += times
        for job, first, tokens, gives in work:
            life = self._lives[job.number]
            if life.last_iteration not in (before, -1):
                life.preemptions += 1
            life.last_iteration = before + times
            if first < life.computed:
                life.recomputed += min(life.computed, first + tokens) - first
            if not gives:
                life.computed = max(life.computed, first + tokens)
                continue
            if life.first_s is None:
                life.first_s = ends[0]
            life.last_s = ends[-1]
            if job.generated + times >= life.request.output_tokens:
                life.finished = True
                ended.append(job.number)
        self._unfinished -= len(ended)
        if self._tokens is not None:
            self._report(work, ends)
        return frozenset(ended)

    def _report(self, work: Sequence[Work], ends: Sequence[float]) -> None:
        assert self._tokens is not None
        given = [each.job.number for each in work if each.gives]
        for end in ends:
            self._tokens(end, given)


def _load(work: Sequence[Work]) -> tuple[list[tuple[int, int]], int, int]:
    """Prefills (tokens, cached before), how many decode, and their context in tokens."""
    prefills = []
    batch = context = 0
    for job, first, tokens, _ in work:
        if tokens == 1 and first >= job.prompt_tokens:
            batch += 1
            context += first + 1
        else:
            prefills.append((tokens, first))
    return prefills, batch, context
