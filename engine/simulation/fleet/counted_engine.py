"""An engine whose decodes are counted, not walked: what :class:`Simulator` says, much sooner.

All that have begun to answer decode in every iteration, and of one only their number, their
context and who ends matters. So an iteration costs what its prompts do, not what its batch does: a
hundredth of the time where hundreds of short requests decode. Where a batch is full, and in some
rare cases, it says so (``short``) and stops: then the scheduler itself has to be simulated.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from engine.simulation.serve.life import Life, Outcome

if TYPE_CHECKING:
    from engine.profiles.latency import Latency
    from engine.scheduling.limits import Limits
    from engine.simulation.serve.request import Request, Workload

_NEVER = float("inf")
_UNBOUNDED = 1 << 62
_Rank = tuple[int, int]  # what is left of its prompt, or 0; its number


class _Prompts:
    """Whose prompts are computed in an iteration.

    Attributes:
        left: tokens that may be computed yet.
        taken: how many of each.
    """

    def __init__(self, tokens: int) -> None:
        self.left = tokens
        self.taken: dict[int, int] = {}

    def add(self, number: int, due: int) -> bool:
        """As many of what is due as may be; a single token takes nothing. False: none."""
        tokens = min(due, self.left) if due > 1 else 1
        if tokens:
            self.taken[number] = tokens
            self.left -= tokens if due > 1 else 0
        return tokens > 0


class CountedEngine:
    """Of :class:`~engine.scheduling.fcfs.FirstComeFirstServed` or
    :class:`~engine.scheduling.short_first.ShortFirst`, with blocks of one token and recomputation.

    Args:
        short_first: who has the least left of its prompt goes first, else who came first.
        computed: all but the last token of each prompt need not be computed.

    Attributes:
        short: whether it had to stop; what it says is then of no use.
    """

    def __init__(
        self,
        latency: Latency,
        limits: Limits,
        workload: Workload,
        *,
        short_first: bool,
        computed: bool = False,
    ) -> None:
        assert limits.block_tokens == 1, "it counts tokens"
        self.short = False
        self._latency = latency
        self._limits = limits
        self._short_first = short_first
        self._computed = computed
        self._free = limits.blocks
        self._lives: list[Life] = []
        self._known: list[int] = []  # tokens of prompt and output when it last waited
        self._due: list[int] = []  # of these
        self._arrivals = [_NEVER]
        self._arrived = 0
        self._ranks: list[_Rank] = []  # as the policy has them: less runs first
        self._waiting: set[int] = set()  # for tokens to be computed
        self._pending: list[_Rank] = []  # a heap of their ranks, and of some that are not any more
        self._partial: set[int] = set()  # who waits, and has room already
        self._answering: dict[int, int] = {}  # the iterations in which they end
        self._ends: list[tuple[int, int]] = []  # a heap of these, and of some that are not any more
        self._newest: list[int] = []  # a heap of who answers, negated, and of some that do not
        self._stalled = -1  # who sat the last iteration out
        self._context = 0  # of who answers
        self._now = 0.0
        self._iterations = 0
        self._busy_s = 0.0
        self._unfinished = 0
        for request in workload.requests:
            self.offer(request)

    @property
    def unfinished(self) -> int:
        """Requests that are not done."""
        return self._unfinished

    def run(self) -> Outcome:
        """Until all requests are done."""
        self.advance(_NEVER)
        return Outcome(
            policy="",
            lives=self._lives,
            end_s=self._now,
            iterations=self._iterations,
            busy_s=self._busy_s,
            waited_s=0.0,
            swapped_bytes=0,
        )

    def offer(self, request: Request) -> Life:
        """As :meth:`Simulator.offer`."""
        life = Life(request=request)
        self._lives.append(life)
        self._known.append(request.prompt_tokens)
        self._due.append(0)
        self._ranks.append((0, 0))
        self._arrivals[-1:] = (request.arrival_s, _NEVER)
        self._unfinished += 1
        return life

    def advance(self, until_s: float) -> None:
        """As :meth:`Simulator.advance`."""
        while self._unfinished and self._now < until_s and not self.short:
            while self._arrivals[self._arrived] <= self._now:
                self._come(self._arrived)
                self._wait(self._arrived)
                self._arrived += 1
            if self._waiting or self._answering:
                self._iterate()
            else:
                self._now = self._arrivals[self._arrived]

    def _come(self, number: int) -> None:
        """All that is known of it is to be computed."""
        self._due[number] = 1 if self._computed else self._known[number]

    def _wait(self, number: int) -> None:
        """For tokens to be computed."""
        ranked = self._short_first and not self._generated(number)
        self._ranks[number] = (self._due[number] if ranked else 0), number
        self._waiting.add(number)
        heappush(self._pending, self._ranks[number])

    def _generated(self, number: int) -> int:
        """Of who waits: what it had given before it was put out."""
        return self._known[number] - self._lives[number].request.prompt_tokens

    def _iterate(self) -> None:
        stalled = self._make_room()
        batch, context = len(self._answering), self._context
        if stalled is not None:
            batch, context = batch - 1, context - self._tokens(stalled)
        self._sit_out(stalled)
        self._free -= batch
        prefills = [] if stalled is not None else self._prefills()
        full = batch + len(self._partial) > self._limits.max_batch
        self.short = self.short or self._free < 0 or full
        if self.short:
            return
        seconds = self._seconds(prefills, batch, context)
        self._now += seconds
        self._busy_s += seconds
        self._iterations += 1
        self._context += batch
        self._end()
        for number, tokens in prefills:
            self._compute(number, tokens)

    def _seconds(self, prefills: list[tuple[int, int]], batch: int, context: int) -> float:
        chunks = []
        for number, tokens in prefills:
            first = self._known[number] - self._due[number]
            if tokens == 1 and first >= self._lives[number].request.prompt_tokens:
                batch, context = batch + 1, context + first + 1  # it had begun to answer before
            else:
                chunks.append((tokens, first))
        return self._latency.iteration_s(chunks, batch, context)

    # -- who decodes ---

    def _make_room(self) -> int | None:
        """For a token of each that answers: who ranks lowest gives up what it has, and so on. It
        sits out and keeps that if it answers itself, and its own token alone is missing: its
        number, else None."""
        while self._free < len(self._answering):
            number = self._lowest()
            if number in self._partial:
                self._put_out(number)
            elif self._free == len(self._answering) - 1:
                self.short = bool(self._partial)
                return number
            else:
                self._known[number] = self._tokens(number)
                self._lives[number].last_iteration = self._iterations - (number == self._stalled)
                self._context -= self._known[number]
                del self._answering[number]
                self._put_out(number)
                self._wait(number)
        return None

    def _lowest(self) -> int:
        """Of those that have room."""
        while -self._newest[0] not in self._answering:
            heappop(self._newest)
        return max((-self._newest[0], *self._partial), key=self._ranks.__getitem__)

    def _tokens(self, number: int) -> int:
        """Of who answers: its prompt and what it has given."""
        return self._lives[number].request.tokens - (self._answering[number] - self._iterations)

    def _put_out(self, number: int) -> None:
        """What it has is free; its rank stays."""
        answered = number not in self._partial
        self._partial.discard(number)
        self._free += self._known[number] - answered
        if self._generated(number):
            self._lives[number].computed = self._known[number] - 1
        self._come(number)

    def _sit_out(self, stalled: int | None) -> None:
        """It ends an iteration later; who sat out before is in an iteration again."""
        if self._stalled in self._answering and self._stalled != stalled:
            self._lives[self._stalled].preemptions += 1
        self._stalled = -1 if stalled is None else stalled
        if stalled is not None:
            self._answer(stalled, self._answering[stalled] + 1)

    def _answer(self, number: int, end: int) -> None:
        self._answering[number] = end
        heappush(self._ends, (end, number))

    def _end(self) -> None:
        """Of who has its last token now."""
        while self._ends and self._ends[0][0] <= self._iterations:
            end, number = heappop(self._ends)
            if self._answering.get(number) == end:
                del self._answering[number]
                request = self._lives[number].request
                self._context -= request.tokens
                self._leave(number, request.tokens - 1)

    def _leave(self, number: int, tokens: int) -> None:
        life = self._lives[number]
        life.last_s, life.finished = self._now, True
        self._free += tokens
        self._unfinished -= 1

    # -- whose prompt is computed ---

    def _prefills(self) -> list[tuple[int, int]]:
        """Whose, and how many tokens of each: they do not wait any more. Whoever finds no room
        stops those who have none yet; the others go on."""
        batch = _Prompts(self._limits.prefill_tokens or _UNBOUNDED)
        while self._pending:
            rank = self._pending[0]
            number = rank[1]
            if number not in self._waiting or rank != self._ranks[number]:
                heappop(self._pending)
                continue
            if number not in self._partial and not (batch.left and self._begin(number, batch)):
                break
            if not batch.add(number, self._due[number]):
                break
            heappop(self._pending)
            self._waiting.discard(number)
        for number in sorted(self._partial - batch.taken.keys(), key=self._ranks.__getitem__):
            if batch.add(number, self._due[number]):
                self._waiting.discard(number)
        return list(batch.taken.items())

    def _begin(self, number: int, batch: _Prompts) -> bool:
        """Give it room for what is known of it, if there is some beside the watermark; prompts that
        rank lower give way, if that is enough."""
        known, limits = self._known[number], self._limits
        missing = min(known + limits.watermark, limits.blocks) - self._free
        lower = (
            sorted(
                (
                    each
                    for each in self._partial - batch.taken.keys()
                    if self._ranks[each] > self._ranks[number]
                ),
                key=self._ranks.__getitem__,
                reverse=True,
            )
            if missing > 0
            else []
        )
        victims = []
        for each in lower:
            if missing <= 0:
                break
            victims.append(each)
            missing -= self._known[each]
        if missing > 0:
            return False
        for each in victims:
            self._put_out(each)
        self._free -= known
        self._partial.add(number)
        return True

    def _compute(self, number: int, tokens: int) -> None:
        life, known = self._lives[number], self._known[number]
        if life.last_iteration not in (self._iterations - 1, -1):
            life.preemptions += 1
        life.last_iteration = self._iterations
        first = known - self._due[number]
        if first < life.computed:
            life.recomputed += min(life.computed, first + tokens) - first
        self._due[number] -= tokens
        if self._due[number]:
            life.computed = max(life.computed, first + tokens)
            self._wait(number)
            return
        self._partial.discard(number)
        self._ranks[number] = 0, number
        self._give(number)

    def _give(self, number: int) -> None:
        """Its next token, after a prefill."""
        life, known = self._lives[number], self._known[number]
        life.first_s = self._now if life.first_s is None else life.first_s
        life.last_s = self._now
        left = life.request.tokens - known - 1
        if left:
            self._answer(number, self._iterations + left)
            heappush(self._newest, -number)
            self._context += known + 1
        else:
            self._leave(number, known)
