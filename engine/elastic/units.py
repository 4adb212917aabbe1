"""Instances that work together or not at all, since they hold tokens of the same requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.elastic.snapshot import Instance, Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Instances that are bound together by requests that decode, or that have begun a prompt.

    Whoever takes one of them takes all: so no decode waits for ever, and no prompt that has begun.

    Attributes:
        instances: ascending.
        idle: all of them.
        ends_s: when the last of them is expected to be idle.
        decodes, context, urgency: sums, as of :class:`~engine.elastic.snapshot.Instance`.
    """

    instances: tuple[int, ...]
    idle: bool
    ends_s: float
    decodes: int
    context: int
    urgency: float


def units_of(snapshot: Snapshot) -> list[Unit]:
    """All instances, each in one of them."""
    living = snapshot.by_number
    bonds = [each.bound for each in snapshot.instances if len(each.bound) > 1]
    begun = (each.held for each in snapshot.waiting if each.begun and len(each.held) > 1)
    bonds += [frozenset(instance for instance, _ in held) for held in begun]
    return [_unit([living[each] for each in group]) for group in _joined(living, bonds)]


def _joined(instances: Iterable[int], bonds: Sequence[frozenset[int]]) -> list[list[int]]:
    """Connected parts, each ascending."""
    parts = {each: [each] for each in instances}
    for bond in bonds:
        first, *others = sorted(bond)
        for other in others:
            if parts[first] is not parts[other]:
                together = sorted(parts[first] + parts[other])
                parts.update(dict.fromkeys(together, together))
    return [part for each, part in parts.items() if part[0] == each]


def _unit(members: Sequence[Instance]) -> Unit:
    return Unit(
        instances=tuple(each.number for each in members),
        idle=all(each.idle for each in members),
        ends_s=max(each.ends_s for each in members),
        decodes=sum(each.decodes for each in members),
        context=sum(each.context for each in members),
        urgency=sum(each.urgency for each in members),
    )
