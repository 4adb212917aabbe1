"""Step 2: which instances compute prompts, and whose decodes go elsewhere for that (LoongServe,
section 5.2).

Units that do not decode come first. Then, again and again, the one whose decodes are the least
urgent, as long as that gains more than it costs: with them, if a delay of these costs less than the
prompts' sooner beginnings bring; without them, if what they hold can be drained to another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.elastic.assignment import Assignment, Transfer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from engine.elastic.draft import Draft
    from engine.elastic.outlook import Outlook
    from engine.elastic.snapshot import Waiting
    from engine.elastic.units import Unit

_MOST_DECODES = 128  # of one instance: with more, decoding is bound by arithmetic, not by memory


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Attributes:
    units: that are to compute prompts now.
    drains: joint iterations, after which some decode elsewhere.
    holds: units that wait for the one that is to take their decodes over.
    """

    units: list[Unit]
    drains: list[Assignment] = field(default_factory=list)
    holds: list[Unit] = field(default_factory=list)


def allocate(
    requests: Sequence[Waiting], outlook: Outlook, draft: Draft, taken: Collection[Unit]
) -> Allocation:
    """For these prompts.

    Args:
        taken: units that compute others.
    """
    if not requests:
        return Allocation(units=[])
    free = [each for each in outlook.idle if each not in taken]
    units = [each for each in free if not each.decodes]
    others = sum(each not in taken for each in outlook.prompting)
    weight = outlook.rush * outlook.total(requests)
    for each in sorted((each for each in free if each.decodes), key=lambda each: each.urgency):
        if weight / (others + 1) > each.urgency:
            units.append(each)
            others += 1
    drain = _Drain(weight / (others + 1), outlook, draft, taken, units)
    return drain.allocation(units)


class _Drain:
    """Decodes of several units that are to be one's.

    Args:
        gain: of a second of one instance that computes prompts.
    """

    def __init__(
        self,
        gain: float,
        outlook: Outlook,
        draft: Draft,
        taken: Collection[Unit],
        allocated: Collection[Unit],
    ) -> None:
        self._gain = gain
        self._outlook = outlook
        self._draft = draft
        self._candidates = [
            each for each in outlook.decoding if len(each.instances) == 1 and each not in taken
        ]
        self._target = max(
            (each for each in self._candidates if each not in allocated or each.urgency),
            key=lambda each: (each.urgency, -each.instances[0]),
            default=None,
        )

    def allocation(self, units: list[Unit]) -> Allocation:
        """Without those that are drained, and the one that they are drained to."""
        target = self._target
        if target is None or len(self._outlook.decoding) < 2:
            return Allocation(units=units)
        sources = self._sources(target)
        if not sources:
            return Allocation(units=units)
        if target.idle:
            left = [each for each in units if each is not target and each not in sources]
            return Allocation(units=left, drains=[self._joint(sources, target)])
        if self._outlook.wait_s(target) <= self._outlook.pace.hold_s:
            left = [each for each in units if each not in sources]
            return Allocation(units=left, holds=sources)
        return Allocation(units=units)

    def _sources(self, target: Unit) -> list[Unit]:
        """The least urgent first, as far as the target has room for all of them."""
        found: list[Unit] = []
        room, decodes = self._draft.free[target.instances[0]], target.decodes
        for each in sorted(self._candidates, key=lambda each: each.urgency):
            more = decodes + each.decodes
            fits = room >= each.context + self._outlook.answer * more and more <= _MOST_DECODES
            if fits and self._worthwhile(each, target):
                found.append(each)
                room, decodes = room - each.context, more
        return found

    def _worthwhile(self, source: Unit, target: Unit) -> bool:
        outlook = self._outlook
        if source is target or not source.idle:
            return False
        decode_s = outlook.decode_s(source)
        left_s = outlook.answer * decode_s
        gain = min(left_s * self._gain, source.urgency * outlook.answer * outlook.pace.slice_s)
        joint_s = outlook.base.transfer_s(source.context) + decode_s
        slower_s = outlook.answer * outlook.slowdown_s(source.decodes, source.context)
        everybody = source.urgency + target.urgency + self._gain
        return gain > joint_s * everybody + slower_s * target.urgency

    def _joint(self, sources: Sequence[Unit], target: Unit) -> Assignment:
        to = target.instances[0]
        numbers = [each.instances[0] for each in sources]
        moved = [each for number in numbers for each in self._outlook.snapshot.decoding(number)]
        transfers = [
            Transfer(each.number, holder, to, tokens)
            for each in moved
            for holder, tokens in each.held
        ]
        self._draft.free[to] -= sum(each.tokens for each in transfers)
        return Assignment(
            instances=tuple(sorted([to, *numbers])),
            masters=tuple((each.number, to) for each in moved),
            transfers=tuple(transfers),
        )
