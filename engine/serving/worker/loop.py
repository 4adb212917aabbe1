"""Drives an engine: hears of requests, computes iterations, tells what they gave."""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from collectors.clock import now_ns
from collectors.level import Level, declare
from engine.serving.sampling.sampler import choose
from engine.serving.wire import Join, Progress, Withdraw
from engine.serving.worker.group import Chose
from engine.serving.worker.tick import Outcome, Tick

if TYPE_CHECKING:
    from collectors.recorder import Recorder
    from engine.scheduling.iteration import Iteration, Work
    from engine.serving.channel import Channel
    from engine.serving.paged.runner import PagedRunner
    from engine.serving.request import GenerationRequest, Token
    from engine.serving.sampling.sampler import Chosen
    from engine.serving.wire import ToEngine
    from engine.serving.worker.engine import Engine
    from engine.serving.worker.group import Followers

_log = logging.getLogger(__name__)
_LOOK_S = 0.0005  # between looks at moves, while nothing can be computed before one has ended
declare(Level.SAMPLED, "prefill", "decode", "mixed", "running_requests", "kv_tokens")


class _Started(NamedTuple):
    """An iteration in flight: when it was begun to be decided, and when to be computed."""

    decided_ns: int
    start_ns: int
    work: tuple[Work, ...]


class Loop:
    """One iteration after another, until the other end of the connection is gone.

    Where layers are spread over stages, as many iterations are in flight as there are stages: each
    decision is of jobs that are in none of them (FastServe, section 4.4).

    Args:
        followers: the other ranks, which do the same; None: there are none.
        stages: of the pipeline.
    """

    def __init__(
        self,
        engine: Engine,
        runner: PagedRunner,
        channel: Channel[ToEngine],
        recorder: Recorder,
        *,
        followers: Followers | None = None,
        stages: int = 1,
    ) -> None:
        self._engine = engine
        self._runner = runner
        self._channel = channel
        self._recorder = recorder
        self._followers = followers
        self._stages = stages
        self._started: deque[_Started] = deque()
        self._ended: list[Outcome] = []
        self._idle = True
        self._heard = False

    def run(self) -> NoReturn:
        """EOFError, OSError: nobody is there any more."""
        while True:
            tick = self._listen()
            decided_ns = now_ns()
            if self._followers:
                self._followers.tell(tick)
            tokens, iteration = self._engine.step(tick)
            self._report(tokens, iteration)
            self._runner.cache.move(iteration)
            self._idle = iteration.idle
            if iteration.work:
                self._compute(iteration.work, decided_ns)

    def _listen(self) -> Tick:
        """What has happened; waits where nothing else is to be done."""
        joined: list[GenerationRequest] = []
        withdrawn: list[int] = []
        self._heard = False
        for channel in self._speaking():
            for message in channel.receive(0):  # all: of what is left no selector would tell
                if isinstance(message, Chose):
                    self._end(message.chosen)
                    continue
                self._heard = True
                if isinstance(message, Join):
                    joined += message.requests
                elif isinstance(message, Withdraw):
                    withdrawn += message.numbers
        ended, self._ended = self._ended, []
        return Tick(
            now=time.monotonic(),
            outcomes=tuple(ended),
            moved=tuple(self._runner.cache.arrived()),
            withdrawn=tuple(withdrawn),
            joined=tuple(joined),
        )

    def _speaking(self) -> list[Channel[Any]]:
        """Who has something to say."""
        channels: list[Channel[Any]] = [self._channel]
        if self._followers and self._stages > 1:
            channels.append(self._followers.last_stage)
        full = self._engine.in_flight - len(self._ended) == self._stages
        timeout_s: float | None = 0.0
        if full or (self._idle and not self._ended):
            timeout_s = _LOOK_S if self._engine.moves else None
        return select.select(channels, [], [], timeout_s)[0]

    def _report(self, tokens: list[Token], iteration: Iteration) -> None:
        """To the API: tokens, and how busy the engine is where that has changed otherwise."""
        unproven = self._engine.unproven
        if tokens or unproven or self._heard or iteration.idle:
            self._channel.send(Progress(tuple(tokens), unproven, self._engine.load()))

    def _compute(self, work: tuple[Work, ...], decided_ns: int) -> None:
        """This stage's part of it; all of it where there is one."""
        self._started.append(_Started(decided_ns, now_ns(), work))
        if self._stages > 1:
            self._runner.compute(work, self._engine.texts(work))
            return
        try:
            self._end(tuple(self._chosen(work)))
        except Exception:
            if self._followers:
                raise  # the others have computed it: from here on they would decide differently
            _log.exception("an iteration failed: its requests are computed one by one")
            self._one_by_one(work)

    def _end(self, chosen: tuple[Chosen, ...], failed: frozenset[int] = frozenset()) -> None:
        """The oldest iteration is over."""
        started, end_ns = self._started.popleft(), now_ns()
        self._record(started.work, started.start_ns, end_ns)
        seconds = (end_ns - started.decided_ns) / 1e9  # deciding took its time, too
        self._ended.append(Outcome(seconds=seconds, chosen=chosen, failed=failed))

    def _chosen(self, work: tuple[Work, ...]) -> list[Chosen]:
        scores = self._runner.compute(work, self._engine.texts(work))
        candidates = self._engine.candidates(work)
        return choose(scores, candidates) if candidates else []

    def _one_by_one(self, work: tuple[Work, ...]) -> None:
        """An error in one request never ends the others."""
        chosen: list[Chosen] = []
        failed: set[int] = set()
        for each in work:
            try:
                chosen += self._chosen((each,))
            except Exception:  # noqa: BLE001 - whatever it is, it concerns this request alone
                _log.exception("request %d failed", each.job.number)
                failed.add(each.job.number)
        self._end(tuple(chosen), frozenset(failed))

    def _record(self, work: tuple[Work, ...], start_ns: int, end_ns: int) -> None:
        number, cache = self._engine.iterations, self._runner.cache
        decoding = sum(each.tokens == 1 and each.job.decodes for each in work)
        kind = "decode" if decoding == len(work) else "mixed" if decoding else "prefill"
        self._recorder.record_span(kind, start_ns, end_ns, number)
        self._recorder.sample("running_requests", len(work), number)
        self._recorder.sample("kv_tokens", cache.used * cache.block_tokens, number)
