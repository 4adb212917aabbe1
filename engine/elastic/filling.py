"""What a group computes of its prompts in one iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.elastic.assignment import Assignment
from engine.elastic.scaling import scale_down
from engine.elastic.slices import tokens_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.assignment import Chunk
    from engine.elastic.draft import Draft
    from engine.elastic.outlook import Outlook
    from engine.elastic.snapshot import Waiting
    from engine.elastic.units import Unit

_CRUMB = 1.25  # what is left of a prompt is not cut where it takes so many times as long as it may


def fill(
    units: Sequence[Unit],
    requests: Sequence[Waiting],
    outlook: Outlook,
    draft: Draft,
    *,
    most_tokens: int,
    slice_s: float = float("inf"),
) -> Assignment | None:
    """Prompts one after the other, as long as another gains by it: it delays what is done then,
    and the decodes, by its time; in an iteration of its own, it would delay what is behind by the
    time that every iteration takes.

    Args:
        requests: in their order; some of each can be computed here.
        most_tokens: that one instance computes.
        slice_s: that they add to the iteration at most.
    """
    return _Filling(units, outlook, draft, most_tokens, slice_s).assignment(requests)


class _Filling:
    def __init__(
        self,
        units: Sequence[Unit],
        outlook: Outlook,
        draft: Draft,
        most_tokens: int,
        slice_s: float,
    ) -> None:
        self._outlook = outlook
        self._draft = draft
        self._group = tuple(sorted(each for unit in units for each in unit.instances))
        self._latency = outlook.base.latency(len(self._group))
        self._tokens = most_tokens * len(self._group)
        self._left_s = slice_s
        self._cut = slice_s < float("inf")
        self._done = sum(unit.urgency for unit in units)
        self._chunks: list[Chunk] = []

    def assignment(self, requests: Sequence[Waiting]) -> Assignment | None:
        behind = self._outlook.total(requests)
        for waiting in requests:
            if not self._add(waiting, behind):
                break
            weight = self._outlook.weight[waiting.number]
            self._done += weight
            behind -= weight
        if not self._chunks:
            return None
        return Assignment(instances=self._group, chunks=tuple(self._chunks))

    def _add(self, waiting: Waiting, behind: float) -> bool:
        """Whether all of it is computed then."""
        draft, latency = self._draft, self._latency
        if len(self._chunks) >= self._outlook.snapshot.max_batch:
            return False
        if not self._fits(waiting):
            return False
        part = draft.part(waiting, self._group)
        tokens = part.due
        if latency.added_s(part.due, part.cached) > _CRUMB * self._left_s:
            tokens = min(tokens, tokens_within(latency, self._left_s, part.cached))
        tokens = min(tokens, self._tokens, draft.room(self._group))
        if tokens <= 0:
            return False
        added_s = latency.added_s(tokens, part.cached)
        if self._cut and self._chunks and self._done * added_s > latency.prefill.constant * behind:
            return False
        last = tokens == part.due
        order = scale_down(waiting, part.due, self._group, self._outlook, draft, finishes=last)
        self._chunks.append(draft.chunk(waiting, part, tokens, order))
        self._tokens -= tokens
        self._left_s -= added_s
        return last

    def _fits(self, waiting: Waiting) -> bool:
        """What one instance can have does not lie on several: these would be bound together."""
        outlook = self._outlook
        alone = not (outlook.begun or outlook.decodes)
        if waiting.has_begun or alone or waiting.room > outlook.largest:
            return True
        rooms = (self._draft.free[each] - outlook.reserved(each) for each in self._group)
        return max(rooms) >= waiting.room
