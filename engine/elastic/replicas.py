"""As many engines as instances: each request on one of them, from its first token to its last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.elastic.assignment import Assignment
from engine.elastic.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.assignment import Chunk
    from engine.elastic.snapshot import Instance, Snapshot, Waiting


class Replicas:
    """A request goes to the instance with the least to hold and to compute, when that is idle; its
    prompt is computed in chunks, beside the decodes. Who does not fit into one instance waits for
    ever.

    Args:
        prefill_tokens: of prompts that an instance computes in an iteration.
    """

    name = "replicas"

    def __init__(self, *, prefill_tokens: int) -> None:
        self._prefill_tokens = prefill_tokens

    def decide(self, snapshot: Snapshot) -> Sequence[Assignment]:
        """See :class:`~engine.elastic.fleet_policy.FleetPolicy`."""
        return _Decision(snapshot, self._prefill_tokens).assignments()

    def holds(self, snapshot: Snapshot) -> frozenset[int]:
        """Nobody waits for others."""
        return frozenset()


class _Decision:
    def __init__(self, snapshot: Snapshot, prefill_tokens: int) -> None:
        self._snapshot = snapshot
        self._draft = Draft(snapshot)
        self._left = dict.fromkeys((each.number for each in snapshot.instances), prefill_tokens)
        self._chunks: dict[int, list[Chunk]] = {each: [] for each in self._left}
        self._load = {each.number: each.used for each in snapshot.instances}
        self._promised = dict.fromkeys(self._left, 0)  # slots that prompts there need yet
        for waiting in snapshot.waiting:
            home = _home(waiting)
            if home is not None:
                self._load[home] += waiting.due
                self._promised[home] += waiting.due

    def assignments(self) -> list[Assignment]:
        """Prompts in the order of the snapshot."""
        for waiting in self._snapshot.waiting:
            home = _home(waiting)
            instance = self._least_loaded(waiting) if home is None else home
            if instance is not None:
                self._compute(waiting, self._snapshot.by_number[instance])
        return [
            Assignment(instances=(number,), chunks=tuple(chunks))
            for number, chunks in self._chunks.items()
            if chunks
        ]

    def _least_loaded(self, waiting: Waiting) -> int | None:
        fitting = [
            each.number
            for each in self._snapshot.instances
            if each.free - self._promised[each.number] >= waiting.room
            or (not each.used and not self._promised[each.number] and each.slots >= waiting.known)
        ]
        return min(fitting, key=lambda each: (self._load[each], each), default=None)

    def _compute(self, waiting: Waiting, instance: Instance) -> None:
        """As much as its iteration has room for; others wait until it is idle."""
        number = instance.number
        part = self._draft.part(waiting, (number,))
        if _home(waiting) is None:
            self._load[number] += part.due
            self._promised[number] += part.due
        sharing = 0 if waiting.begun or part.fresh else part.cached
        most = min(part.due, self._left[number], self._draft.free[number] - sharing)
        full = len(self._chunks[number]) >= self._snapshot.max_batch
        if not instance.idle or most <= 0 or full:
            return
        self._chunks[number].append(self._draft.chunk(waiting, part, most, (number,)))
        self._left[number] -= most


def _home(waiting: Waiting) -> int | None:
    """Where it has begun."""
    return waiting.held[0][0] if waiting.begun and waiting.held else None
