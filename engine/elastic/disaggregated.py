"""Half of the instances compute prompts, the other half answers (DistServe, arXiv 2401.09670)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.elastic.assignment import Assignment, Transfer
from engine.elastic.draft import Draft
from engine.elastic.static_sp import chunks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.assignment import Chunk
    from engine.elastic.snapshot import Decoding, Instance, Snapshot


class Disaggregated:
    """Each half is one group. When a prompt is done, its keys and values pass to the other half as
    soon as both are idle, and there is room; until then prompts wait.

    Args:
        prefill_tokens: of prompts that an instance computes in an iteration.
    """

    name = "disaggregated"

    def __init__(self, *, prefill_tokens: int) -> None:
        self._prefill_tokens = prefill_tokens

    def decide(self, snapshot: Snapshot) -> Sequence[Assignment]:
        """See :class:`~engine.elastic.fleet_policy.FleetPolicy`."""
        first, second = _halves(snapshot)
        if not _idle(first):
            return _decodes(second)
        done = [each for one in first for each in snapshot.decoding(one.number)]
        if done and not _idle(second):
            return ()
        draft = Draft(snapshot)
        moves = _moves(done, draft, second)
        if moves:
            return (_pass_on(first, second, moves),)
        chunks = [] if done else self._chunks(snapshot, draft, first)
        if chunks or (done and not any(each.decodes for each in second)):
            return (
                Assignment(instances=_numbers(first), chunks=tuple(chunks)),
                *_decodes(second),
            )
        return _decodes(second)

    def holds(self, snapshot: Snapshot) -> frozenset[int]:
        """Only what is said above begins."""
        return frozenset(each.number for each in snapshot.idle)

    def _chunks(self, snapshot: Snapshot, draft: Draft, first: Sequence[Instance]) -> list[Chunk]:
        tokens = self._prefill_tokens * len(first)
        return chunks_of(snapshot, draft, _numbers(first), tokens)


def _halves(snapshot: Snapshot) -> tuple[tuple[Instance, ...], tuple[Instance, ...]]:
    """Of one instance alone, both are that one."""
    half = len(snapshot.instances) // 2
    return snapshot.instances[:half] or snapshot.instances, snapshot.instances[half:]


def _numbers(instances: Sequence[Instance]) -> tuple[int, ...]:
    return tuple(each.number for each in instances)


def _idle(instances: Sequence[Instance]) -> bool:
    return all(each.idle for each in instances)


def _decodes(second: Sequence[Instance]) -> tuple[Assignment, ...]:
    if _idle(second) and any(each.decodes for each in second):
        return (Assignment(instances=_numbers(second)),)
    return ()


def _moves(
    done: Sequence[Decoding], draft: Draft, second: Sequence[Instance]
) -> list[tuple[Decoding, int]]:
    """Requests, and the instances of the other half to which they go whole: where most is free."""
    moves = []
    for request in done:
        target = max(_numbers(second), key=lambda each: (draft.free[each], -each))
        if draft.free[target] > request.known and request.held[0][0] != target:
            draft.free[target] -= request.known
            moves.append((request, target))
    return moves


def _pass_on(
    first: Sequence[Instance], second: Sequence[Instance], moves: Sequence[tuple[Decoding, int]]
) -> Assignment:
    return Assignment(
        instances=tuple(sorted({*_numbers(first), *_numbers(second)})),
        masters=tuple((request.number, target) for request, target in moves),
        transfers=tuple(
            Transfer(request.number, source, target, tokens)
            for request, target in moves
            for source, tokens in request.held
            if source != target
        ),
    )
