"""Elastic sequence parallelism: a degree of parallelism for each prompt, anew at every iteration
(LoongServe, arXiv 2404.09526)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.elastic.allocation import allocate
from engine.elastic.batching import form_batches
from engine.elastic.dispatch import join_decodes, with_room
from engine.elastic.draft import Draft
from engine.elastic.filling import fill
from engine.elastic.outlook import Outlook
from engine.elastic.pace import Pace
from engine.elastic.scaling import scale_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.assignment import Assignment
    from engine.elastic.information_base import InformationBase
    from engine.elastic.snapshot import Snapshot, Waiting
    from engine.elastic.units import Unit

_ALIGNED = (0.3, 1.3)  # of a slice: it may be so long, to end when others do


class ElasticSequenceParallelism:
    """The four steps of LoongServe's manager, with three things more:

    - prompts are computed in slices of time, so that short ones overtake long ones between them;
    - prompts and decodes can share an iteration of any group, so that a fleet with nothing but
      short requests becomes replicas;
    - where prompts are long, decodes gather on few instances, which others need not disturb.

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
        """Instances whose decodes are about to pass to another."""
        return self._decision(snapshot).holds

    def _decision(self, snapshot: Snapshot) -> _Decision:
        if self._made is None or self._made[0] is not snapshot:
            outlook = Outlook(snapshot, self._base, self._pace)
            self._made = snapshot, _Decision(outlook, self._prefill_tokens)
        return self._made[1]


class _Decision:
    """Attributes are what it comes to."""

    def __init__(self, outlook: Outlook, most_tokens: int) -> None:
        self.assignments: list[Assignment] = []
        self.holds: frozenset[int] = frozenset()
        self._outlook = outlook
        self._draft = Draft(outlook.snapshot)
        self._most_tokens = most_tokens
        if outlook.idle:
            self._make()

    def _make(self) -> None:
        outlook, draft = self._outlook, self._draft
        scaled = scale_up(outlook, draft)
        self.assignments += [each.assignment for each in scaled if each.assignment is not None]
        self.holds = frozenset(
            number
            for each in scaled
            if each.assignment is None
            for unit in each.units
            for number in unit.instances
        )
        taken = [unit for each in scaled for unit in each.units]
        if outlook.snapshot.waiting:
            self._prefill(taken)

    def _prefill(self, taken: list[Unit]) -> None:
        """By units that are idle and not taken."""
        outlook, draft = self._outlook, self._draft
        joined = join_decodes(with_room(outlook, draft), outlook, draft)
        beside = [each for each in joined.beside if each.idle and each not in taken]
        for each in beside:
            self._compute([each], joined.beside[each])
        allocation = allocate(joined.left, outlook, draft, [*taken, *beside])
        self.assignments += allocation.drains
        self.holds |= {number for each in allocation.holds for number in each.instances}
        self._form_groups(joined.left, allocation.units)
        if outlook.backlog_s > outlook.pace.backlog_s:
            self._help(joined.left)

    def _help(self, requests: Sequence[Waiting]) -> None:
        """Units that would only decode compute a little of whoever is first and fits."""
        used = {number for each in self.assignments for number in each.instances} | self.holds
        done = {chunk.number for each in self.assignments for chunk in each.chunks}
        for unit in self._outlook.idle:
            if not unit.decodes or used.intersection(unit.instances):
                continue
            left = (each for each in requests if each.number not in done)
            first = next((each for each in left if self._fits(each, unit)), None)
            if first is not None:
                done.add(first.number)
                self._compute([unit], [first], self._outlook.pace.beside_s)

    def _fits(self, waiting: Waiting, unit: Unit) -> bool:
        if waiting.has_begun:
            return all(holder in unit.instances for holder, _ in waiting.held)
        return self._draft.room(unit.instances) >= waiting.room

    def _form_groups(self, requests: Sequence[Waiting], units: Sequence[Unit]) -> None:
        """Of whole units: one that is bound together takes part in the first group that has some
        of it."""
        unit = {number: each for each in units for number in each.instances}
        here = [
            each
            for each in requests
            if not each.has_begun or all(holder in unit for holder, _ in each.held)
        ]
        free = {number: self._draft.free[number] for number in unit}
        slice_s = self._slice_s()
        outlook = self._outlook
        for batch in form_batches(here, free, outlook.base, outlook.weight, outlook.price):
            group = dict.fromkeys(unit.get(number) for number in batch.instances)
            whole = [each for each in group if each is not None]
            if len(whole) < len(group):
                continue
            for number in (number for each in whole for number in each.instances):
                del unit[number]
            self._compute(whole, batch.requests, slice_s)

    def _slice_s(self) -> float:
        """So that it ends when others do: then there are more of whom groups can be formed."""
        outlook, usual_s = self._outlook, self._outlook.pace.slice_s
        shortest, longest = _ALIGNED
        ends = (outlook.wait_s(each) for each in outlook.prompting)
        return max(
            (each for each in ends if shortest <= each / usual_s <= longest),
            default=usual_s,
        )

    def _compute(
        self,
        units: Sequence[Unit],
        requests: Sequence[Waiting],
        slice_s: float = float("inf"),
    ) -> None:
        made = fill(
            units,
            requests,
            self._outlook,
            self._draft,
            most_tokens=self._most_tokens,
            slice_s=slice_s,
        )
        if made is not None:
            self.assignments.append(made)
