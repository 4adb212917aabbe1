"""Step 1: which of the requests that wait join the next prefills (LoongServe, section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.draft import Draft
    from engine.elastic.outlook import Outlook
    from engine.elastic.snapshot import Waiting
    from engine.elastic.units import Unit

_LEAST_ROOM_S = 1.0  # of waiting for room, before nobody may overtake any more


def with_room(outlook: Outlook, draft: Draft) -> list[Waiting]:
    """Those whose keys and values fit, beside what others need yet, in their order: so that nobody
    has to give up any later, as far as is known.

    Whoever does not fit is overtaken, but not for ever: then only those go on that have begun. One
    that fits into the fleet begins in any case when there is nothing else.
    """
    snapshot = outlook.snapshot
    begun = [each for each in snapshot.waiting if each.has_begun]
    decodes = sum(each.decodes for each in snapshot.instances)
    slots = sum(draft.free.values())
    free = slots - sum(each.due + each.growth for each in begun) - decodes * outlook.answer // 2
    empty = not begun and not decodes and all(each.idle for each in snapshot.instances)
    found: list[Waiting] = []
    closed = False
    for waiting in outlook.order:
        if waiting.has_begun:
            found.append(waiting)
        elif closed:
            continue
        elif waiting.room <= free or (empty and not found and waiting.known <= slots):
            found.append(waiting)
            free -= waiting.room
        else:
            closed = _overtaken(waiting, outlook)
    return found


def _overtaken(waiting: Waiting, outlook: Outlook) -> bool:
    waited_s = outlook.snapshot.now - waiting.arrived_s
    return waited_s > _LEAST_ROOM_S + outlook.pace.overtaken * outlook.all_s[waiting.number]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What is computed beside decodes, and what is not.

    Attributes:
        beside: prompts by unit; where that is at work, they wait for it.
        left: others, in their order.
    """

    beside: dict[Unit, list[Waiting]]
    left: list[Waiting]


def join_decodes(requests: Sequence[Waiting], outlook: Outlook, draft: Draft) -> Joined:
    """Short prompts go where they delay decodes by less than they would be delayed elsewhere.

    While a long prompt waits or is computed, only units that decode are looked at, since others
    have work; else all of them are, which makes replicas of the instances.
    """
    return _Joining(requests, outlook, draft).joined()


@dataclass(slots=True, kw_only=True)
class _Load:
    """A unit with what joins it.

    Attributes:
        decode_s: of an iteration of its decodes.
        added_s: that prompts add to the next one.
    """

    wait_s: float
    urgency: float
    decode_s: float
    decodes: int
    added_s: float = 0.0


class _Joining:
    def __init__(self, requests: Sequence[Waiting], outlook: Outlook, draft: Draft) -> None:
        self._requests = requests
        self._outlook = outlook
        self._draft = draft
        self._loads = {
            each: _Load(
                wait_s=outlook.wait_s(each),
                urgency=each.urgency,
                decode_s=outlook.decode_s(each),
                decodes=each.decodes,
            )
            for each in outlook.units
        }
        self._pressed = self._is_pressed()
        pressed = self._pressed and outlook.decoding
        self._candidates = outlook.decoding if pressed else outlook.units
        self._soonest_s = min(map(outlook.wait_s, outlook.prompting), default=float("inf"))
        self._ahead_s = 0.0

    def joined(self) -> Joined:
        """Each where it costs least."""
        beside: dict[Unit, list[Waiting]] = {}
        left: list[Waiting] = []
        for waiting in self._requests:
            unit = self._unit(waiting)
            if unit is None:
                left.append(waiting)
                self._ahead_s += self._outlook.alone_s[waiting.number]
            else:
                beside.setdefault(unit, []).append(waiting)
                self._add(waiting, self._loads[unit])
        return Joined(beside=beside, left=left)

    def _is_pressed(self) -> bool:
        outlook, long_s = self._outlook, self._outlook.pace.long_s
        return any(outlook.wait_s(each) > long_s for each in outlook.prompting) or any(
            outlook.alone_s[each.number] > long_s for each in self._requests
        )

    def _unit(self, waiting: Waiting) -> Unit | None:
        """None: it does not join."""
        slice_s = self._outlook.pace.slice_s
        added_s = self._outlook.alone_s[waiting.number]
        if waiting.has_begun or added_s > slice_s:
            return None
        fitting = [each for each in self._candidates if self._fits(waiting, each)]
        best = min(fitting, key=lambda each: self._cost(waiting, each), default=None)
        if best is None:
            return None
        load = self._loads[best]
        if added_s > load.decode_s and not self._gains(waiting, load):
            return None
        full = best.idle and load.added_s > 0 and load.added_s + added_s > slice_s
        return None if full else best

    def _fits(self, waiting: Waiting, unit: Unit) -> bool:
        snapshot = self._outlook.snapshot
        growth = unit.decodes * self._outlook.answer // 2
        return self._draft.room(unit.instances) >= waiting.room + growth and self._loads[
            unit
        ].decodes < snapshot.max_batch * len(unit.instances)

    def _cost(self, waiting: Waiting, unit: Unit) -> float:
        """Of its own time until it has ended, and of that of the decodes."""
        outlook, load, tokens = self._outlook, self._loads[unit], self._outlook.answer
        slower_s = outlook.slowdown_s(1, waiting.known)
        own = outlook.weight[waiting.number] * (load.wait_s + tokens * load.decode_s)
        added_s = outlook.alone_s[waiting.number]
        return own + load.urgency * (added_s + tokens * slower_s)

    def _gains(self, waiting: Waiting, load: _Load) -> bool:
        """Whether it is worth a delay of the decodes by more than one of their iterations."""
        outlook, weight = self._outlook, self._outlook.weight[waiting.number]
        added_s = outlook.alone_s[waiting.number]
        if not load.urgency:
            return False
        if self._pressed and outlook.prompting:
            elsewhere_s = self._soonest_s + self._ahead_s / len(outlook.prompting)
            return weight * (elsewhere_s - load.wait_s) > load.urgency * added_s
        return weight / added_s >= load.urgency / (outlook.answer * load.decode_s)

    def _add(self, waiting: Waiting, load: _Load) -> None:
        added_s = self._outlook.alone_s[waiting.number]
        load.wait_s += added_s
        load.urgency += self._outlook.weight[waiting.number]
        load.decode_s += self._outlook.slowdown_s(1, waiting.known)
        load.decodes += 1
        load.added_s += added_s
