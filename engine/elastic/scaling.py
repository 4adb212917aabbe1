"""Step 4: how groups scale (LoongServe, section 5.4).

Down after a prefill: the fewest instances keep its keys and values. Up in decode: requests get a
new master, who keeps what is computed from then on; nothing that is kept moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.elastic.assignment import Assignment

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from engine.elastic.draft import Draft
    from engine.elastic.outlook import Outlook
    from engine.elastic.snapshot import Instance, Waiting
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
        free = draft.free[instance]
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
    units: that decode together from now on.
    assignment: their first iteration.
    """

    units: tuple[Unit, Unit]
    assignment: Assignment


def scale_up(outlook: Outlook, draft: Draft) -> list[ScaleUp]:
    """Of idle units: half of the requests of an instance get another master, if it has no slots
    for their next tokens, or more requests than it decodes well and the other not half as many."""
    found: list[ScaleUp] = []
    taken: set[Unit] = set()
    for unit in outlook.idle:
        for number in unit.instances:
            one = outlook.snapshot.by_number[number]
            if unit in taken or not _wants_more(one):
                continue
            made = _scale_up(one, unit, taken, outlook, draft)
            if made is not None:
                found.append(made)
                taken.update(made.units)
    return found


def _wants_more(one: Instance) -> bool:
    return one.free < one.decodes or one.decodes > MOST_DECODES


def _scale_up(
    one: Instance, unit: Unit, taken: Collection[Unit], outlook: Outlook, draft: Draft
) -> ScaleUp | None:
    """With the unit that has the most room, if that is enough for all answers that it takes."""
    moved = [each.number for each in outlook.snapshot.decoding(one.number)][one.decodes // 2 :]
    others = [
        each
        for each in outlook.idle
        if each is not unit
        and each not in taken
        and (one.free < one.decodes or 2 * each.decodes < one.decodes)
    ]
    other = max(others, key=lambda each: draft.room(each.instances), default=None)
    if other is None or not moved:
        return None
    master = max(other.instances, key=lambda each: draft.free[each])
    if draft.free[master] < outlook.answer * len(moved):
        return None
    draft.free[master] -= len(moved)
    return ScaleUp(
        (unit, other),
        Assignment(
            instances=tuple(sorted((*unit.instances, *other.instances))),
            masters=tuple((each, master) for each in moved),
        ),
    )
