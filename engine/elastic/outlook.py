"""What follows from a snapshot for every step of a decision."""

from __future__ import annotations

from statistics import median_low
from typing import TYPE_CHECKING

from engine.elastic.units import units_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.elastic.information_base import InformationBase
    from engine.elastic.pace import Pace
    from engine.elastic.snapshot import Snapshot, Waiting
    from engine.elastic.units import Unit


class Outlook:
    """A second's delay of a request costs 1 / its tokens (LoongServe, section 5), and the more the
    longer it has waited, so that everybody's turn comes.

    Attributes:
        answer: tokens that a request is expected to give yet; at least 1.
        weight: of each request that waits, by number: what a second's delay of it costs.
        alone_s: that its prompt adds to an iteration of one instance.
        all_s: that its prompt takes on all instances.
        order: those that wait, whoever deserves to run most first: by Smith's rule, the least time
            for its weight.
        prompting: units that compute prompts now, or have nothing to do.
        decoding: all others.
    """

    def __init__(self, snapshot: Snapshot, base: InformationBase, pace: Pace) -> None:
        self.snapshot = snapshot
        self.base = base
        self.pace = pace
        self.alone = base.latency(1)
        self.units = units_of(snapshot)
        self.idle = [each for each in self.units if each.idle]
        self.answer = max(1, median_low([each.growth for each in snapshot.waiting] or [1]))
        together = base.latency(len(snapshot.instances))
        self.all_s = {each.number: together.prefill_s(each.known) for each in snapshot.waiting}
        self.weight = {each.number: self._weight(each) for each in snapshot.waiting}
        self.alone_s = {
            each.number: self.alone.added_s(each.due, each.cached) for each in snapshot.waiting
        }
        self.order = sorted(
            snapshot.waiting,
            key=lambda each: (
                self.alone_s[each.number] / self.weight[each.number],
                each.number,
            ),
        )
        self.prompting = [each for each in self.units if self._prompts(each)]
        self.decoding = [each for each in self.units if not self._prompts(each)]

    def wait_s(self, unit: Unit) -> float:
        """Until it is idle."""
        return 0.0 if unit.idle else max(0.0, unit.ends_s - self.snapshot.now)

    def total(self, requests: Iterable[Waiting]) -> float:
        """Of their weights."""
        return sum(self.weight[each.number] for each in requests)

    def decode_s(self, unit: Unit) -> float:
        """Of an iteration of its decodes alone."""
        latency = self.base.latency(len(unit.instances))
        return latency.decode_s(max(1, unit.decodes), unit.context)

    def slowdown_s(self, decodes: int, context: int) -> float:
        """That so many decodes more add to each iteration of one instance."""
        terms = self.alone.small
        return terms.sequence * decodes + terms.context * context

    def _weight(self, waiting: Waiting) -> float:
        waited_s = self.snapshot.now - waiting.arrived_s
        return (1 + waited_s / (self.pace.patience * self.all_s[waiting.number])) / waiting.known

    def _prompts(self, unit: Unit) -> bool:
        return not unit.decodes or self.wait_s(unit) > self.pace.long_s
