"""All instances compute everything together: sequence parallelism of one degree, always."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.elastic.assignment import Assignment
from engine.elastic.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.assignment import Chunk
    from engine.elastic.snapshot import Snapshot, Waiting


class StaticSequenceParallel:
    """Prompts in chunks, beside all decodes; what is kept lies where most is free.

    Args:
        prefill_tokens: of prompts that an instance computes in an iteration.
    """

    name = "static-sp"

    def __init__(self, *, prefill_tokens: int) -> None:
        self._prefill_tokens = prefill_tokens

    def decide(self, snapshot: Snapshot) -> Sequence[Assignment]:
        """See :class:`~engine.elastic.fleet_policy.FleetPolicy`."""
        group = tuple(each.number for each in snapshot.instances)
        decodes = any(each.decodes for each in snapshot.instances)
        if len(snapshot.idle) < len(group):
            return ()
        chunks = chunks_of(snapshot, Draft(snapshot), group, self._prefill_tokens * len(group))
        return (Assignment(instances=group, chunks=tuple(chunks)),) if chunks or decodes else ()

    def holds(self, snapshot: Snapshot) -> frozenset[int]:
        """All wait for all."""
        together = len(snapshot.idle) == len(snapshot.instances)
        return frozenset() if together else frozenset(each.number for each in snapshot.idle)


def chunks_of(snapshot: Snapshot, draft: Draft, group: tuple[int, ...], tokens: int) -> list[Chunk]:
    """So many tokens of prompts that lie within a group or nowhere, in the order of the snapshot.
    One begins if all of it will fit."""
    chunks: list[Chunk] = []
    promised = sum(
        each.due for each in snapshot.waiting if each.begun and each.held and _within(each, group)
    )
    for waiting in snapshot.waiting:
        if tokens <= 0 or len(chunks) >= snapshot.max_batch:
            break
        part = draft.part(waiting, group)
        if waiting.begun and waiting.held:
            if not _within(waiting, group):
                continue
            promised -= part.due
        elif waiting.room > draft.room(group) - promised and (chunks or not _empty(snapshot)):
            continue
        order = sorted(group, key=lambda each: (-draft.free[each], each))
        most = min(part.due, tokens, draft.room(group))
        if most > 0:
            chunks.append(draft.chunk(waiting, part, most, order))
            tokens -= most
            promised += part.due - most
    return chunks


def _within(waiting: Waiting, group: tuple[int, ...]) -> bool:
    return all(each in group for each, _ in waiting.held)


def _empty(snapshot: Snapshot) -> bool:
    return not any(each.used for each in snapshot.instances)
