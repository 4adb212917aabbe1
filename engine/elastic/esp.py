"""Elastic sequence parallelism: a degree of parallelism for each prompt, anew at every iteration.

As LoongServe (arXiv 2404.09526) has it, a second's delay of a request counts 1 / its length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from engine.elastic.assignment import Assignment, Chunk
from engine.elastic.room import Room
from engine.elastic.scaling import scale_down
from engine.elastic.slices import tokens_within
from engine.elastic.units import units_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.elastic.information_base import InformationBase
    from engine.elastic.snapshot import Snapshot, Waiting
    from engine.elastic.units import Unit

_CRUMB = 1.25  # what is left of a prompt is not cut where it takes so many times as long
_NEVER = float("inf")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Attributes:
    chunk_s: that prompts add to an iteration: for so long, none that is shorter can overtake.
    patience_s: a request that has waited for so long counts double.
    overtaken_s: nobody begins before one that has waited for room for longer than that.
    """

    chunk_s: float = 0.3
    patience_s: float = 30.0
    overtaken_s: float = 30.0


class ElasticSequenceParallelism:
    """See above.

    Args:
        prefill_tokens: of prompts that one instance computes in an iteration.
    """

    name = "esp"

    def __init__(
        self, base: InformationBase, *, prefill_tokens: int, pace: Pace | None = None
    ) -> None:
        self._base = base
        self._prefill_tokens = prefill_tokens
        self._pace = pace or Pace()
        self._made: tuple[Snapshot, _Decision] | None = None

    def decide(self, snapshot: Snapshot) -> Sequence[Assignment]:
        """See :class:`~engine.elastic.fleet_policy.FleetPolicy`."""
        return self._decision(snapshot).assignments

    def holds(self, snapshot: Snapshot) -> frozenset[int]:
        """What is idle, where somebody has waited for long for room that only all have."""
        return self._decision(snapshot).holds

    def _decision(self, snapshot: Snapshot) -> _Decision:
        if self._made is None or self._made[0] is not snapshot:
            decision = _Decision(snapshot, self._base, self._prefill_tokens, self._pace)
            decision.make()
            self._made = snapshot, decision
        return self._made[1]


@dataclass(slots=True, eq=False)
class _Group:
    """One that is formed: its units, and what it computes so far."""

    units: tuple[Unit, ...]
    chunks: list[Chunk] = field(default_factory=list)
    weight: float = 0.0
    added_s: float = 0.0
    tokens: int = 0

    @property
    def instances(self) -> tuple[int, ...]:
        return tuple(sorted(each for unit in self.units for each in unit.instances))

    @property
    def dop(self) -> int:
        return sum(len(unit.instances) for unit in self.units)

    @property
    def urgency(self) -> float:
        return sum(unit.urgency for unit in self.units)

    @property
    def decodes(self) -> int:
        return sum(unit.decodes for unit in self.units)


class _Decision:
    def __init__(
        self, snapshot: Snapshot, base: InformationBase, prefill_tokens: int, pace: Pace
    ) -> None:
        self.assignments: list[Assignment] = []
        self.holds: frozenset[int] = frozenset()
        self._snapshot = snapshot
        self._base = base
        self._prefill_tokens = prefill_tokens
        self._pace = pace
        self._room = Room(snapshot)
        self._units = units_of(snapshot)
        self._idle = [each for each in self._units if each.idle]
        self._busy = [each for each in self._units if not each.idle]
        self._unit = {number: each for each in self._units for number in each.instances}
        self._groups: list[_Group] = []

    def make(self) -> None:
        """Whoever deserves it most first."""
        if not self._idle:
            return
        ranked = sorted(self._snapshot.waiting, key=self._rank)
        weights = [1 / each.known for each in ranked]
        later = [*accumulate(reversed(weights)), 0.0][::-1]
        starved = False
        for waiting, after in zip(ranked, later[1:], strict=False):
            if not self._idle and all(self._full(each) for each in self._groups):
                break
            if starved and not (waiting.begun and waiting.held):
                continue  # those that have begun go on: they hold what it waits for
            if not self._place(waiting, after) and self._starves(waiting):
                self.holds = frozenset(
                    number for each in self._idle for number in each.instances if self._busy
                )
                starved = True
        self.assignments = [
            Assignment(instances=each.instances, chunks=tuple(each.chunks)) for each in self._groups
        ]

    def _rank(self, waiting: Waiting) -> tuple[float, int]:
        """Seconds times length: Smith's rule, less for who has waited."""
        latency = self._base.latency(1)
        age = self._snapshot.now - waiting.arrived_s
        cost = latency.added_s(waiting.due, waiting.cached) * waiting.known
        return cost / (1 + age / self._pace.patience_s), waiting.number

    def _starves(self, waiting: Waiting) -> bool:
        return self._snapshot.now - waiting.arrived_s > self._pace.overtaken_s

    def _full(self, group: _Group) -> bool:
        return (
            group.added_s >= 0.9 * self._pace.chunk_s
            or group.tokens >= self._prefill_tokens * group.dop
            or len(group.chunks) >= self._snapshot.max_batch
        )

    def _place(self, waiting: Waiting, later: float) -> bool:
        """Into the group that costs least; False: none has room."""
        best, least = None, _NEVER
        for group in self._options(waiting):
            cost = self._cost(waiting, group, later)
            if cost < least:
                best, least = group, cost
        if best is None:
            return False
        if not any(each is best for each in self._groups):
            if not all(each.idle for each in best.units):
                return True  # it waits for those
            self._groups.append(best)
            self._idle = [each for each in self._idle if each not in best.units]
        self._compute(waiting, best)
        return True

    def _options(self, waiting: Waiting) -> Iterator[_Group]:
        """Groups that have room for it."""
        own = self._unit[waiting.held[0][0]] if waiting.begun and waiting.held else None
        for group in self._groups:
            within = own is None or own in group.units
            if within and not self._full(group) and self._fits(waiting, group):
                yield group
        if own is None:
            for unit in self._busy:
                group = _Group((unit,))
                if self._fits(waiting, group):
                    yield group
        elif own not in self._idle:
            return
        others = sorted(
            (each for each in self._idle if each is not own),
            key=lambda each: (each.urgency, each.instances),
        )
        chosen = [own] if own else []
        for unit in ([] if own else others[:1]) + (others if own else others[1:]):
            if chosen and self._fits(waiting, group := _Group(tuple(chosen))):
                yield group
            chosen.append(unit)
        if chosen and self._fits(waiting, group := _Group(tuple(chosen))):
            yield group

    def _fits(self, waiting: Waiting, group: _Group) -> bool:
        if waiting.begun and waiting.held:
            return self._room.within(group.instances) > 0
        growth = max(0, waiting.room - waiting.known)
        return self._room.admits(waiting.known, growth, group.instances)

    def _cost(self, waiting: Waiting, group: _Group, later: float) -> float:
        """Delays that follow, each by its weight: the request's own, of what decodes there, and of
        all who want these instances next."""
        weight, dop = 1 / waiting.known, group.dop
        latency = self._base.latency(dop)
        added_s = latency.added_s(waiting.due, waiting.cached)
        if not group.chunks and not group.decodes:
            added_s += latency.prefill.constant
        wait_s = max(each.ends_s for each in group.units) - self._snapshot.now
        share = dop / len(self._snapshot.instances)
        price = weight + group.weight + group.urgency + later * share
        return price * added_s + weight * (wait_s + group.added_s) + self._decoding(waiting, group)

    def _decoding(self, waiting: Waiting, group: _Group) -> float:
        """Of its own decode, and of what that delays."""
        living = self._snapshot.by_number
        target = min(
            (living[each] for each in group.instances), key=lambda each: (each.context, each.number)
        )
        latency = self._base.latency(1)
        terms = latency.small
        decode_s = latency.decode_s(target.decodes + 1, target.context + waiting.known)
        delay_s = terms.sequence + terms.context * waiting.known
        tokens = max(1, waiting.room - waiting.known)
        return tokens * (decode_s / waiting.known + delay_s * target.urgency)

    def _compute(self, waiting: Waiting, group: _Group) -> None:
        fresh = not waiting.held
        begun = waiting.begun and not fresh
        due, cached = (waiting.due, waiting.cached) if begun else (waiting.known, 0)
        latency = self._base.latency(group.dop)
        left_s = self._pace.chunk_s - group.added_s
        within = max(1, tokens_within(latency, left_s, cached))
        if latency.added_s(due, cached) <= _CRUMB * left_s:
            within = due
        most = self._prefill_tokens * group.dop - group.tokens
        tokens = min(due, within, most, self._room.within(group.instances))
        growth = max(0, waiting.room - waiting.known)
        living = self._snapshot.by_number
        held = {instance for instance, _ in waiting.held} if begun else set()
        order = sorted(
            group.instances,
            key=lambda each: (each not in held, living[each].context, each),
        )
        keep = scale_down(tokens, due - tokens + growth, order, self._room.free)
        if begun:
            self._room.keep(keep)
        else:
            self._room.begin(keep, due - tokens)
        group.chunks.append(Chunk(waiting.number, tokens, keep, fresh=not begun))
        group.weight += 1 / waiting.known
        group.added_s += latency.added_s(tokens, cached)
        group.tokens += tokens
