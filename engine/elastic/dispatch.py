"""Step 1: which of the requests that wait join the next prefills (LoongServe, section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.elastic.draft import Draft
    from engine.elastic.outlook import Outlook
    from engine.elastic.snapshot import Waiting
    from engine.elastic.units import Unit

_NEAR = 4  # units that are looked at for each prompt: those with the least load
_LEAST_ROOM_S = 1.0  # of waiting for room, before nobody may overtake any more


def with_room(outlook: Outlook, draft: Draft) -> list[Waiting]:
    """Those whose keys and values fit, beside what others need yet, in their order: so that nobody
    has to give up any later, as far as is known.

    Whoever does not fit is overtaken, but not for ever: then only those go on that have begun. One
    that fits into the fleet begins in any case when there is nothing else.
    """
    snapshot = outlook.snapshot
    room = _Room(max(0, free - outlook.reserved(each)) for each, free in draft.free.items())
    slots = sum(draft.free.values())
    largest = max(each.slots for each in snapshot.instances)
    empty = not outlook.begun and all(e.idle and not e.decodes for e in snapshot.instances)
    found: list[Waiting] = []
    closed = False
    for waiting in outlook.order:
        if waiting.has_begun:
            found.append(waiting)
        elif closed:
            continue
        elif (empty and not found and waiting.known <= slots) or room.has(waiting.room, largest):
            found.append(waiting)
            room.reserve(waiting.room)
        else:
            closed = _overtaken(waiting, outlook)
    return found


class _Room:
    """Slots of each instance that nobody needs yet, the most first."""

    def __init__(self, slots: Iterable[int]) -> None:
        self._negative = [-each for each in slots]
        heapify(self._negative)

    def has(self, slots: int, largest: int) -> bool:
        """On one instance, if the ``largest`` can have all of them."""
        if slots <= largest:
            return -self._negative[0] >= slots
        return -sum(self._negative) >= slots

    def reserve(self, slots: int) -> None:
        """Where most are."""
        while slots > 0 and self._negative[0]:
            part = min(slots, -self._negative[0])
            heapreplace(self._negative, self._negative[0] + part)
            slots -= part


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


@dataclass(slots=True, eq=False, kw_only=True)
class _Load:
    """A unit with what joins it.

    Attributes:
        decode_s: of an iteration of its decodes.
        room: slots that are not needed by those, as far as is known.
        places: for decodes.
        added_s: that prompts add to the next iteration.
    """

    unit: Unit
    wait_s: float
    urgency: float
    decode_s: float
    room: int
    places: int
    added_s: float = 0.0


class _Joining:
    def __init__(self, requests: Sequence[Waiting], outlook: Outlook, draft: Draft) -> None:
        self._requests = requests
        self._outlook = outlook
        self._pressed = self._is_pressed()
        candidates = (self._pressed and outlook.decoding) or outlook.units
        loads = [_load(each, outlook, draft) for each in candidates]
        self._queue = [(self._load_s(each), place, each) for place, each in enumerate(loads)]
        heapify(self._queue)
        self._soonest_s = min(map(outlook.wait_s, outlook.prompting), default=float("inf"))
        self._ahead_s = 0.0

    def joined(self) -> Joined:
        """Each where it costs least."""
        beside: dict[Unit, list[Waiting]] = {}
        left: list[Waiting] = []
        for waiting in self._requests:
            unit = self._join(waiting)
            if unit is None:
                left.append(waiting)
                self._ahead_s += self._outlook.alone_s[waiting.number]
            else:
                beside.setdefault(unit, []).append(waiting)
        return Joined(beside=beside, left=left)

    def _is_pressed(self) -> bool:
        outlook, long_s = self._outlook, self._outlook.pace.long_s
        return any(outlook.wait_s(each) > long_s for each in outlook.prompting) or any(
            outlook.alone_s[each.number] > long_s for each in self._requests
        )

    def _load_s(self, load: _Load) -> float:
        """Of a request that joins, until it has ended."""
        return load.wait_s + self._outlook.answer * load.decode_s

    def _join(self, waiting: Waiting) -> Unit | None:
        """The unit, of those with the least load; None: it does not join."""
        if waiting.has_begun or self._outlook.alone_s[waiting.number] > self._outlook.pace.slice_s:
            return None
        near = [heappop(self._queue) for _ in range(min(_NEAR, len(self._queue)))]
        fitting = [load for _, _, load in near if load.places > 0 and load.room >= waiting.room]
        best = min(fitting, key=lambda each: self._cost(waiting, each), default=None)
        joins = best is not None and self._joins(waiting, best)
        if best is not None and joins:
            self._add(waiting, best)
        for _, place, load in near:
            heappush(self._queue, (self._load_s(load), place, load))
        return best.unit if best is not None and joins else None

    def _joins(self, waiting: Waiting, load: _Load) -> bool:
        added_s = self._outlook.alone_s[waiting.number]
        if added_s > load.decode_s and not self._gains(waiting, load):
            return False
        first = not load.unit.idle or not load.added_s
        return first or load.added_s + added_s <= self._outlook.pace.slice_s

    def _cost(self, waiting: Waiting, load: _Load) -> float:
        """Of its own time until it has ended, and of that of the decodes."""
        outlook = self._outlook
        slower_s = outlook.answer * outlook.slowdown_s(1, waiting.known)
        own = outlook.weight[waiting.number] * self._load_s(load)
        return own + load.urgency * (outlook.alone_s[waiting.number] + slower_s)

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
        load.room -= waiting.room
        load.places -= 1
        load.added_s += added_s


def _load(unit: Unit, outlook: Outlook, draft: Draft) -> _Load:
    places = outlook.snapshot.max_batch * len(unit.instances)
    return _Load(
        unit=unit,
        wait_s=outlook.wait_s(unit),
        urgency=unit.urgency,
        decode_s=outlook.decode_s(unit),
        room=draft.room(unit.instances) - unit.decodes * outlook.answer // 2,
        places=places - unit.decodes,
    )
