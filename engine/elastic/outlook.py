"""What follows from a snapshot for every step of a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.elastic.units import units_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from engine.elastic.information_base import InformationBase
    from engine.elastic.pace import Pace
    from engine.elastic.snapshot import Snapshot, Waiting
    from engine.elastic.units import Unit
    from engine.profiles.latency import Latency

    Floats = NDArray[np.float64]

_WINDOW, _OF_EACH = 128, 2


class Outlook:
    """A second's delay of a request costs 1 / its tokens (LoongServe, section 5), and the more the
    longer it has waited, so that everybody's turn comes.

    Attributes:
        answer: tokens that a request is expected to give yet; at least 1.
        order: those that wait, whoever deserves to run most first: by Smith's rule, the least time
            for its weight. Those that have no chance to begin now are left out: beyond 128, and two
            for each instance.
        weight: of each of these, by number: what a second's delay of it costs.
        alone_s: that its prompt adds to an iteration of one instance.
        all_s: that its prompt takes on all instances.
        rush: how many times their delays count; see :class:`~engine.elastic.pace.Pace`.
        price: what a second of an instance costs.
        backlog_s: that all instances need for the prompts that wait.
        begun: requests that wait between two chunks of their prompts.
        pieces: how many of these each instance holds tokens of.
        decodes: of all instances.
        largest: slots of the instance that has the most.
        prompting: units that compute prompts now, or have nothing to do.
        decoding: all others.
    """

    def __init__(self, snapshot: Snapshot, base: InformationBase, pace: Pace) -> None:
        self.snapshot = snapshot
        self.base = base
        self.pace = pace
        self.alone = base.latency(1)
        self.decodes = sum(each.decodes for each in snapshot.instances)
        self.largest = max(each.slots for each in snapshot.instances)
        self.units = units_of(snapshot)
        self.idle = [each for each in self.units if each.idle]
        self.prompting = [each for each in self.units if self._prompts(each)]
        self.decoding = [each for each in self.units if not self._prompts(each)]
        self.begun = [each for each in snapshot.waiting if each.has_begun]
        self.pieces = dict.fromkeys(snapshot.by_number, 0)
        for each in self.begun:
            for holder, _ in each.held:
                self.pieces[holder] += 1
        self._needs: dict[int, int] = {}
        self.order: list[Waiting] = []
        self.weight: dict[int, float] = {}
        self.alone_s: dict[int, float] = {}
        self.all_s: dict[int, float] = {}
        self.answer = 1
        self.rush = pace.rush
        self.price = 0.0
        self.backlog_s = 0.0
        if snapshot.waiting:
            self._rank(snapshot.waiting)
        for each in self.begun:
            home = each.held[-1][0]
            self._needs[home] = self._needs.get(home, 0) + each.due + each.growth

    def reserved(self, instance: int) -> int:
        """Slots that those that are there already will need there."""
        decodes = self.snapshot.by_number[instance].decodes
        return decodes * self.answer // 2 + self._needs.get(instance, 0)

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

    def _rank(self, waiting: Sequence[Waiting]) -> None:
        asked = [
            (each.number, each.cached, each.due, each.arrived_s, each.room) for each in waiting
        ]
        number, cached, due, arrived_s, room = np.array(asked, dtype=np.float64).T
        known = cached + due
        together = self.base.latency(len(self.snapshot.instances))
        all_s = together.prefill.constant + _added_s(together, known, np.zeros_like(known))
        alone_s = _added_s(self.alone, due, cached)
        waited_s = self.snapshot.now - arrived_s
        weight = (1 + waited_s / (self.pace.patience * all_s)) / known
        self.answer = max(1, int(np.median(room - known)))
        instances = len(self.snapshot.instances)
        self.backlog_s = float(alone_s.sum()) / instances
        self.rush += self.backlog_s / self.pace.rush_s
        self.price = self.pace.price * self.rush * float(weight.sum()) / instances
        window = _WINDOW + _OF_EACH * instances
        for index in np.lexsort((number, alone_s / weight))[:window].tolist():
            each = waiting[index]
            self.order.append(each)
            self.weight[each.number] = float(weight[index])
            self.alone_s[each.number] = float(alone_s[index])
            self.all_s[each.number] = float(all_s[index])

    def _prompts(self, unit: Unit) -> bool:
        return not unit.decodes or self.wait_s(unit) > self.pace.long_s


def _added_s(latency: Latency, tokens: Floats, cached: Floats) -> Floats:
    """Of many at once: :meth:`~engine.profiles.latency.Latency.added_s`."""
    terms = latency.prefill
    read = np.maximum(2 * terms.square * tokens, latency.small.context) * cached
    added: Floats = terms.sequence + (terms.token + terms.square * tokens) * tokens + read
    return added
