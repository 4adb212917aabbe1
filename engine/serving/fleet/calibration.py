"""How long groups of instances take, measured before a fleet serves."""

from __future__ import annotations

import select
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from collectors.errors import RunFailed
from engine.elastic.information_base import InformationBase
from engine.profiles.latency_fit import fit_latency
from engine.profiles.profile import DecodeSample, PrefillSample
from engine.serving.instances.step import Choice, Copy, Part, Run, Step
from engine.serving.sampling.parameters import SamplingParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.serving.fleet.crew import Crew

_TOKEN = 1
_ROUNDS = 2  # after one that does not count
_SHORTEST = 16  # tokens of the shortest prompt and context
_COPIED = 256  # tokens
_CHOICE = Choice(parameters=SamplingParameters(temperature=0), place=0)

Samples = tuple[list[PrefillSample], list[DecodeSample]]
Point = tuple[int, tuple[tuple[int, int], ...]]
"""A group's size, and of each request the tokens that are cached and computed."""


class Calibration:
    """Steps with made-up tokens, on instances that have nothing else to do.

    Attributes:
        steps: told so far: a fleet's own have greater numbers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self.steps = 0

    def measure(self, *, longest: int, max_batch: int) -> InformationBase:
        """Of groups of 1, 2, 4 ... and all instances.

        Args:
            longest: tokens of a prompt, of those that are measured.

        Raises:
            RunFailed: an instance died.
        """
        shape = self._crew.shape()
        found = self.samples(longest=longest, max_batch=max_batch, rounds=_ROUNDS)
        latencies = {
            size: fit_latency(
                [(each.lengths, each.seconds) for each in prefills],
                [(each.batch, each.context_tokens, each.seconds) for each in decodes],
            ).latency
            for size, (prefills, decodes) in found.items()
        }
        return InformationBase(
            latencies,
            kv_bytes_per_token=shape.kv_bytes_per_token,
            link_bytes_per_s=self._link(min(_COPIED, shape.slots), shape.kv_bytes_per_token),
        )

    def samples(
        self,
        *,
        longest: int,
        max_batch: int,
        rounds: int,
        told: Callable[[str], None] = lambda _: None,
    ) -> dict[int, Samples]:
        """Medians, by the size of groups; see :meth:`measure`."""
        instances, slots = self._crew.ready, self._crew.shape().slots
        longest = max(_SHORTEST, min(longest, slots - 1))
        sizes = sorted({*_doubling(len(instances)), len(instances)})
        points = [point for size in sizes for point in _points(size, longest, max_batch, slots)]
        seconds: dict[Point, list[float]] = defaultdict(list)
        for number in range(rounds + 1):
            told(f"round {number} of {rounds} ..." if number else "a first round, to warm up ...")
            for point in points:  # in turn: a slow moment harms each once
                seconds[point].append(self._timed(point))
        usual = {point: median(times[1:]) for point, times in seconds.items()}
        return {size: _samples(size, usual) for size in sizes}

    def _timed(self, point: Point) -> float:
        size, requests = point
        group = tuple(self._crew.ready[:size])
        next_slot = dict.fromkeys(group, 0)
        parts = []
        for number, (cached, tokens) in enumerate(requests):
            home = group[number % size]
            slot = next_slot[home]
            next_slot[home] += cached + tokens
            parts.append(
                Part(
                    number=number,
                    tokens=(_TOKEN,) * tokens,
                    first=cached,
                    cached=(Run(home, slot, 0, cached),) if cached else (),
                    keep=(Run(home, slot + cached, cached, tokens),),
                    master=home if cached else None,
                    choice=_CHOICE,
                )
            )
        return self._run(group, tuple(parts), ())

    def _link(self, tokens: int, bytes_per_token: int) -> float:
        """Bytes a second from one instance to another; of one alone nobody asks."""
        if len(self._crew.ready) < 2:
            return 1.0
        source, target = self._crew.ready[:2]
        copy = Copy(Run(source, 0, 0, tokens), Run(target, 0, 0, tokens))
        times = [self._run((source, target), (), (copy,)) for _ in range(_ROUNDS + 1)]
        return tokens * bytes_per_token / min(times)

    def _run(
        self, group: tuple[int, ...], parts: tuple[Part, ...], copies: tuple[Copy, ...]
    ) -> float:
        self.steps += 1
        step = Step(number=self.steps, instances=group, parts=parts, copies=copies)
        self._crew.compute([step])
        missing, seconds = set(group), 0.0
        while missing:
            ready = select.select(self._crew.channels, [], [])[0]
            news = self._crew.hear(ready)
            if news.lost:
                raise RunFailed("an instance died while the fleet was measured")
            for done in news.done:
                missing.discard(done.instance)
                seconds = max(seconds, done.seconds)
        return seconds


def _samples(size: int, usual: Mapping[Point, float]) -> Samples:
    mine = {requests: seconds for (dop, requests), seconds in usual.items() if dop == size}
    prefills = [
        PrefillSample(lengths=tuple(tokens for _, tokens in requests), seconds=seconds)
        for requests, seconds in mine.items()
        if not requests[0][0]
    ]
    decodes = [
        DecodeSample(
            batch=len(requests),
            context_tokens=sum(cached + tokens for cached, tokens in requests),
            seconds=seconds,
        )
        for requests, seconds in mine.items()
        if requests[0][0]
    ]
    return prefills, decodes


def _doubling(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def _points(size: int, longest: int, max_batch: int, slots: int) -> list[Point]:
    middle = max(_SHORTEST, round((_SHORTEST * longest) ** 0.5))
    prefills = sorted({_SHORTEST, middle, (middle + longest) // 2, longest})
    batches = sorted({1, max(1, max_batch // 2), max_batch})
    found: list[Point] = [(size, ((0, tokens),)) for tokens in prefills]
    for batch in batches:
        own = -(-batch // size)
        contexts = sorted({_SHORTEST, min(longest, slots // own - 1)})
        found += [(size, ((context, 1),) * batch) for context in contexts if context > 0]
    return found
