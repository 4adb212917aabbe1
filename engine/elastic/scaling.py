"""Step 4: how groups scale (LoongServe, section 5.4).

Down after a prefill: the fewest instances keep its keys and values. Up in decode: requests get a
new master, who keeps what is computed from then on; nothing that is kept moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.elastic.assignment import Assignment, Transfer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from engine.elastic.draft import Draft
    from engine.elastic.outlook import Outlook
    from engine.elastic.snapshot import Decoding, Instance, Waiting
    from engine.elastic.units import Unit

MOST_DECODES = 128
"""Of one master: with more, decoding is bound by arithmetic, not by memory."""


def scale_down(
    waiting: Waiting,
    due: int,
    group: Sequence[int],
    outlook: Outlook,
    draft: Draft,
    *,
    finishes: bool,
) -> list[int]:
    """The instances of a group, those that are to keep a prompt's tokens first: so that the fewest
    have all of it, and of these the fullest, whose room is of no use to others.

    Those that hold it already come before others. One that is to decode next goes where others do;
    one that is not done stays apart from them, and from other prompts that are not.

    Args:
        due: tokens of the prompt to be computed yet.
        finishes: whether the chunk that is to be kept is the last.
    """
    need = due + waiting.growth
    holders = {each for each, _ in waiting.held} if waiting.has_begun else set()
    decodes = {each: outlook.snapshot.by_number[each].decodes for each in group}

    def place(instance: int) -> tuple[bool, bool, bool, bool, int, int]:
        apart = outlook.pieces[instance] > (instance in holders)
        free = draft.free[instance] - outlook.reserved(instance)
        if instance in holders:
            free += due + waiting.growth
        first, second = (
            (apart, not decodes[instance]) if finishes else (decodes[instance] > 0, apart)
        )
        return (
            bool(holders) and instance not in holders,
            free < need,
            first,
            second,
            free,
            instance,
        )

    order = sorted(group, key=place)
    if not holders and draft.free[order[0]] < need:
        return sorted(group, key=lambda each: (-draft.free[each], each))
    return order


class ScaleUp(NamedTuple):
    """Attributes:
    units: that decode together, or wait for another.
    assignment: what they compute; None: they wait.
    """

    units: tuple[Unit, ...]
    assignment: Assignment | None


def scale_up(outlook: Outlook, draft: Draft) -> list[ScaleUp]:
    """Of idle units that are short of slots, or decode more than they do well: others help.

    Short of slots, an instance gives whole requests to the one with the most room, which it waits
    for; where none fits there, half of its requests get a master there, and so they do where there
    are too many of them.
    """
    found: list[ScaleUp] = []
    taken: set[Unit] = set()
    for unit in outlook.idle:
        for number in unit.instances:
            one = outlook.snapshot.by_number[number]
            if unit in taken or not (_is_short(one) or one.decodes > MOST_DECODES):
                continue
            made = _Relief(one, unit, taken, outlook, draft).made()
            if made is not None:
                found.append(made)
                taken.update(made.units)
    return found


def _is_short(one: Instance) -> bool:
    """Soon there are no slots for the next tokens."""
    return one.free < 2 * one.decodes


class _Relief:
    """Of one instance."""

    def __init__(
        self, one: Instance, unit: Unit, taken: Collection[Unit], outlook: Outlook, draft: Draft
    ) -> None:
        self._one = one
        self._unit = unit
        self._outlook = outlook
        self._draft = draft
        self._others = [
            each
            for each in outlook.units
            if each is not unit
            and each not in taken
            and outlook.wait_s(each) <= outlook.pace.slice_s
        ]

    def made(self) -> ScaleUp | None:
        """None: there is no help."""
        one = self._one
        if not self._others:
            return None
        if _is_short(one):
            other = max(self._others, key=self._room)
            moved = self._whole(self._room(other))
            if moved:
                return self._move(moved, other)
            if one.decodes > 1 or one.free:
                return None  # whoever ranks lowest gives way
        return self._new_masters()

    def _room(self, unit: Unit) -> int:
        """For requests, beside what those that are there will need."""
        return self._draft.room(unit.instances) - unit.decodes * self._outlook.answer // 2

    def _whole(self, room: int) -> list[Decoding]:
        """The smallest, until there are slots for half of the others' answers."""
        one, answer = self._one, self._outlook.answer
        wanted = answer * one.decodes // 2
        found: list[Decoding] = []
        for each in sorted(
            self._outlook.snapshot.decoding(one.number), key=lambda each: each.known
        ):
            if wanted <= 0 or each.known + answer > room:
                break
            if len(each.held) == 1:
                found.append(each)
                room -= each.known + answer
                wanted -= each.known
        return found

    def _move(self, moved: Sequence[Decoding], other: Unit) -> ScaleUp:
        if not other.idle:
            return ScaleUp((self._unit,), None)
        free, transfers = self._draft.free, []
        for each in moved:
            target = max(other.instances, key=lambda instance: free[instance])
            tokens = sum(share for _, share in each.held)
            free[target] -= tokens
            transfers.append(Transfer(each.number, self._one.number, target, tokens))
        return ScaleUp(
            (self._unit, other),
            self._together(other, [(each.number, each.target) for each in transfers], transfers),
        )

    def _new_masters(self) -> ScaleUp | None:
        """For half of them."""
        one, free = self._one, self._draft.free
        numbers = [each.number for each in self._outlook.snapshot.decoding(one.number)]
        moved = numbers[one.decodes // 2 :]
        others = [
            each
            for each in self._others
            if each.idle and (one.free < one.decodes or 2 * each.decodes < one.decodes)
        ]
        other = max(others, key=self._room, default=None)
        if other is None or not moved:
            return None
        master = max(other.instances, key=lambda each: free[each])
        if free[master] < self._outlook.answer * len(moved):
            return None
        free[master] -= len(moved)
        return ScaleUp(
            (self._unit, other), self._together(other, [(each, master) for each in moved], [])
        )

    def _together(
        self,
        other: Unit,
        masters: Sequence[tuple[int, int]],
        transfers: Sequence[Transfer],
    ) -> Assignment:
        return Assignment(
            instances=tuple(sorted((*self._unit.instances, *other.instances))),
            masters=tuple(masters),
            transfers=tuple(transfers),
        )
