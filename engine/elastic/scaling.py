"""Step 4: where keys and values are kept after a prefill, so that its group can scale down
(LoongServe, section 5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.draft import Draft
    from engine.elastic.outlook import Outlook
    from engine.elastic.snapshot import Waiting


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
